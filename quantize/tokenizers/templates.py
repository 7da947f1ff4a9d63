"""Chat templates of a checkpoint, from whichever file holds them, as keys of a GGUF file.

`tokenizer_config.json` counts before the files of their own (`chat_template.jinja` with
`additional_chat_templates/`, then `chat_template.json`), as in llama.cpp's converter. Templates are
carried, never run.
"""

from __future__ import annotations

import string
from collections.abc import Iterator

from edge_runtime.artifact.ggml import ValueType
from edge_runtime.errors import FormatError

from ..writers.gguf import Array, Value
from .files import TokenizerFiles

MAX_TEMPLATES = 64
_PLAIN = frozenset(string.ascii_letters + string.digits)


def chat_template_metadata(files: TokenizerFiles) -> dict[str, Value]:
    """Returns the keys of the default template and of named ones.

    A checkpoint without a tokenizer_config.json has none, whatever else lies there. Raises
    FormatError for a list of templates whose entries are none.
    """
    if not files.settings:
        return {}
    found = files.settings.get("chat_template")
    if "chat_template" not in files.settings:
        found = _own_files(files)
    if isinstance(found, str):
        return {"tokenizer.chat_template": found}
    default: str | None = None
    named: dict[str, str] = {}
    for name, text in _entries(found) if isinstance(found, list) else ():
        if name == "default":
            default = text
        elif name:
            named[name] = text
    metadata: dict[str, Value] = {
        f"tokenizer.chat_template.{name}": text for name, text in named.items()
    }
    if named:
        metadata["tokenizer.chat_templates"] = Array(kind=ValueType.STRING, items=sorted(named))
    if default is not None:
        metadata["tokenizer.chat_template"] = default
    return metadata


def _own_files(files: TokenizerFiles) -> object:
    text = files.checkpoint.text("chat_template.jinja")
    if text is None:
        return (files.checkpoint.json("chat_template.json") or {}).get("chat_template")
    more = sorted((files.path / "additional_chat_templates").glob("*.jinja"))[:MAX_TEMPLATES]
    if not more:
        return text
    return [
        {"name": "default", "template": text},
        *(
            {
                "name": path.stem,
                "template": files.checkpoint.text(f"additional_chat_templates/{path.name}"),
            }
            for path in more
        ),
    ]


def _entries(found: list[object]) -> Iterator[tuple[str, str]]:
    """Names with letters and digits only, others become underscores, and their templates."""
    for entry in found[:MAX_TEMPLATES]:
        name = entry.get("name", "") if isinstance(entry, dict) else None
        text = entry.get("template") if isinstance(entry, dict) else None
        if not isinstance(name, str) or (text is not None and not isinstance(text, str)):
            raise FormatError("tokenizer_config.json has a chat template without name or text.")
        if text is not None:
            yield "".join(c if c in _PLAIN else "_" for c in name), text
