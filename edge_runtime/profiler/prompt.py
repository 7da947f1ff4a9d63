"""The text a chat-like workload reads: this project's own words, cut to an exact number of tokens.

The model's own tokenizer cuts it, before any clock runs. This module knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import BackendError

TEXT = (
    "A ferry crosses the bay four times a day, and the people who take it have stopped looking at"
    " the water. Marta, who keeps the tickets, still looks. In the morning the light comes in low"
    " from the east and every wave has a dark side and a bright one; at noon the whole surface is"
    " the colour of tin. She writes down what she sees in a small book: two seals near the buoy, a"
    " sail that turned back, fog until ten. Nobody asked her to. When the harbour office lost its"
    " records in a flood, they came to her for the weather of eleven years, and she gave them nine"
    " books and the advice to keep the tenth somewhere dry. The clerk asked how she had known that"
    " it would be needed. She said that she had not known; she had only noticed that no one else"
    " was doing it, and that a thing which is not written down is soon told differently by each"
    " person who was there. Then she sold him a ticket, because the ferry was about to leave.\n"
)


def prompt_tokens(tokenize: Callable[[str], Sequence[int]], count: int) -> list[int]:
    """Exactly `count` token ids of the text, repeated as often as needed.

    Raises BackendError when the tokenizer makes nothing of the text.
    """
    one = len(tokenize(TEXT))
    if one == 0:
        raise BackendError(
            "The model's tokenizer makes no tokens of an English text.",
            cause="Its vocabulary is empty or broken.",
            way_out="Measure it by llama-bench's protocol: edge profile MODEL -p 512 -n 128",
        )
    repeats = -(-count // one) + 1
    tokens = list(tokenize(TEXT * repeats))
    while len(tokens) < count:
        tokens += tokens
    return tokens[:count]
