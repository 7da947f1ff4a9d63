"""Continues a text and prints it as it is written: python examples/stream_text.py [MODEL]."""

from tiny import model_path

import edge_runtime as edge

PROMPT = "Once upon a time"

with edge.load(model_path(), context_tokens=512) as model:
    print(PROMPT, end="")
    for piece in model.stream(PROMPT, max_tokens=64):
        print(piece, end="", flush=True)
print()
