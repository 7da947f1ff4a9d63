"""What quantization costs in quality: a model's distributions on a text, held against a reference.

Text or prompts (`text`) become passages of tokens (`passages`), a session gives the logits after
each token, and these become scores (`scoring`): by themselves, or against the distributions a
reference left in a compact file (`reference`). All of it happens in a child process (`worker`) that
`evaluate` starts. It knows sessions and no engine, and refuses to judge: what the scores mean is
worked out in `comparison`.
"""

from __future__ import annotations
