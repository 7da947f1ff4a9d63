"""A text cut into samples that a model is run on, so that an algorithm sees real activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.artifact.onnx.folder import TOKENIZER_NAME, side_file
from edge_runtime.errors import UnsupportedError, UsageError
from edge_runtime.units import format_bytes

from .feeds import cache_of, feeds

SAMPLE_TOKENS = 128
MOST_SAMPLES = 32
_LEAST_TOKENS = 32
_MAX_TEXT_BYTES = 16 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Feeds for a session, one per piece of the text, as ONNX Runtime's quantizer asks for."""

    items: tuple[dict[str, Any], ...]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.items)

    @classmethod
    def read(cls, model: Path, text: Path | None) -> Samples:
        """Tokenizes a text with the tokenizer beside a model.

        At most MOST_SAMPLES pieces of SAMPLE_TOKENS tokens are taken, spread over the text. Raises
        UsageError for a text that cannot be read or is too short, UnsupportedError for a model that
        has no tokenizer.
        """
        import onnxruntime
        import tokenizers

        path = side_file(model, TOKENIZER_NAME)
        if path is None or text is None:
            raise UnsupportedError(
                f"There is no {TOKENIZER_NAME} beside {model.name}.",
                cause="The calibration text must be cut into the model's own tokens.",
                way_out="Put the model's tokenizer beside it, or choose --algorithm k-quant.",
            )
        ids = tokenizers.Tokenizer.from_file(str(path)).encode(_words(text)).ids
        if len(ids) < _LEAST_TOKENS:
            raise UsageError(
                f"{text} is too short to calibrate with.",
                cause=f"It has {len(ids)} tokens.",
                way_out="Give some pages of what the model is for.",
            )
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        count = max(1, min(MOST_SAMPLES, len(ids) // SAMPLE_TOKENS))
        step = len(ids) // count
        pieces = (ids[at * step : at * step + SAMPLE_TOKENS] for at in range(count))
        cache = cache_of(model)
        return cls(items=tuple(feeds(session, piece, cache) for piece in pieces))


def _words(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > _MAX_TEXT_BYTES:
            raise UsageError(
                f"{path} is {format_bytes(size)} long.",
                cause=f"Of a calibration text at most {format_bytes(_MAX_TEXT_BYTES)} are read.",
                way_out="Give a part of it.",
            )
        return path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read.", cause=f"{error.strerror}.") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no UTF-8 text.") from None
