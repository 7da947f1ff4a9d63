"""Holds a short conversation: python examples/chat.py [MODEL].

The answer is given back with the next turn. What both turns share is not evaluated again, so a long
conversation does not get slower to start.
"""

from tiny import model_path

import edge_runtime as edge

QUESTIONS = ["Hello! Who are you?", "Tell me about a dog."]

with edge.load(model_path(), context_tokens=1024) as model:
    messages: list[edge.Message] = []
    for question in QUESTIONS:
        print(f"> {question}")
        messages.append(edge.Message(role="user", content=question))
        answer = ""
        for piece in model.chat(messages, max_tokens=48, sampling=edge.Sampling(temperature=0.3)):
            print(piece, end="", flush=True)
            answer += piece
        print()
        messages.append(edge.Message(role="assistant", content=answer))
