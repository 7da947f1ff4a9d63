"""What a model's outputs are worth, as records: scores on a text, and greedy answers to prompts.

`Scores` holds one number for each scored token and nothing derived that could not be computed
again: perplexity, mean divergence and their errors are worked out when they are shown
(`quality_of`). The text itself is not kept, only what tells it from another. This module reads no
clock and no file.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from .codec import from_jsonable, to_jsonable
from .errors import FormatError
from .measurement import ArtifactRecord, Engine, SessionOptions

SCHEMA = 1
"""The number of the JSON layout; a reader refuses one it does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Numbers of one kind, one for each scored token in the text's order: float32.

    They are kept as base64 of their little-endian bytes: a text of a million tokens stays readable
    by any JSON parser, in a tenth of the time and a third of the room.
    """

    count: int
    packed: str

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Samples:
        """Samples of some numbers, rounded to float32."""
        values = tuple(numbers)
        packed = struct.pack(f"<{len(values)}f", *values)
        return cls(count=len(values), packed=base64.b64encode(packed).decode("ascii"))

    def values(self) -> tuple[float, ...]:
        """The numbers. Raises FormatError when what is kept is not `count` finite float32."""
        try:
            data = base64.b64decode(self.packed, validate=True)
        except (ValueError, binascii.Error):
            data = b""
        if self.count < 0 or len(data) != 4 * self.count:
            raise FormatError(f"These samples are not {self.count} numbers.")
        values = struct.unpack(f"<{self.count}f", data)
        if not all(map(math.isfinite, values)):
            raise FormatError("These samples hold numbers that are not finite.")
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRecord:
    """On what a model was scored: unlike texts, or unlike cuts of one, are never compared.

    A `text` is cut into passages of `context_tokens` tokens and the second half of each is scored,
    as llama-perplexity does; of `prompts` the answer to each is scored. `sha256` is of the text, or
    of the prompts, as they were given; `tokens_sha256` of all passages' token ids and of where
    scoring begins in each, which is what a comparison rests on. `shipped` marks the small text that
    comes with edge-runtime. `context_tokens` of prompts is the longest passage, `answer_tokens` the
    length at which the reference's own answers were cut off, where it had to give any.
    """

    kind: Literal["text", "prompts"]
    name: str
    sha256: str
    tokens_sha256: str
    shipped: bool
    size_bytes: int
    context_tokens: int
    passages: int
    tokens: int
    scored_tokens: int
    answer_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRecord:
    """The distributions an artifact was held against, and how they were kept.

    At each scored token the `top` most likely tokens were kept with their probabilities, and
    `drawn` tokens drawn from all others by their probability; `top` of the whole vocabulary is
    exact.
    """

    artifact: ArtifactRecord
    engine: Engine
    vocabulary_tokens: int
    top: int
    drawn: int
    size_bytes: int

    @property
    def exact(self) -> bool:
        """Whether every token's probability was kept."""
        return self.top == self.vocabulary_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """An artifact's distributions against the reference's, at each scored token.

    `kl` is the Kullback-Leibler divergence KL(reference || artifact) in nats: exact, or an estimate
    without bias where the reference is compact. `kl_least` is a bound it certainly does not fall
    below: all tokens that were not kept taken as one. `agrees` is 1 where both put the same token
    first. `p_change` is the artifact's probability of the token that really follows less the
    reference's. `reference_nll` is the reference's own negative log-likelihood of that token.
    """

    kl: Samples
    kl_least: Samples
    agrees: Samples
    p_change: Samples
    reference_nll: Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What one artifact makes of one text: the record.

    `nll` is the negative log-likelihood of each scored token in nats. `divergence` is None where
    there is no reference, as for the reference itself. `duration_s` is how long evaluating and
    scoring took together, loading left out; it is no measurement of speed, and None for a reference
    that was found in its file. `requested` are the options as they were asked for, `options` those
    in force.
    """

    created: str
    tool_version: str
    artifact: ArtifactRecord
    engine: Engine
    options: SessionOptions
    text: TextRecord
    nll: Samples
    duration_s: float | None
    reference: ReferenceRecord | None = None
    divergence: Divergence | None = None
    requested: SessionOptions | None = None
    notes: tuple[str, ...] = ()
    kind: Literal["scores"] = "scores"
    schema: int = field(default=SCHEMA)

    def to_json(self) -> dict[str, object]:
        """The record as plain JSON values, including the schema number."""
        return _jsonable(self)

    @classmethod
    def from_json(cls, data: object) -> Scores:
        """Reads back what `to_json` wrote.

        Raises FormatError, also where the numbers are not one for each scored token.
        """
        found = from_jsonable(cls, data, schema=SCHEMA)
        kinds = [found.nll]
        if found.divergence is not None:
            kinds += (getattr(found.divergence, name) for name in Divergence.__slots__)
        for samples in kinds:
            if len(samples.values()) != found.text.scored_tokens:
                raise FormatError("These scores are not one for each scored token.")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One greedy answer. `tokens` are its ids, `finish` why it ended: `eos`, `length`, `context`.

    `prompt` is what the user wrote; a conversation shows its last message.
    """

    prompt: str
    text: str
    tokens: tuple[int, ...]
    finish: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """One artifact's greedy answers to the same prompts, in their order.

    `prompts_sha256` is of the prompts as they were given, `tokens_sha256` of their token ids,
    `most_tokens` the length at which an answer is cut off: answers are only laid beside others of
    the same token ids and length. `requested` are the options as they were asked for, `options`
    those in force.
    """

    created: str
    tool_version: str
    artifact: ArtifactRecord
    engine: Engine
    options: SessionOptions
    prompts_sha256: str
    tokens_sha256: str
    most_tokens: int
    answers: tuple[Answer, ...]
    requested: SessionOptions | None = None
    notes: tuple[str, ...] = ()
    kind: Literal["answers"] = "answers"
    schema: int = field(default=SCHEMA)

    def to_json(self) -> dict[str, object]:
        """The record as plain JSON values, including the schema number."""
        return _jsonable(self)

    @classmethod
    def from_json(cls, data: object) -> Answers:
        """Reads back what `to_json` wrote. Raises FormatError."""
        return from_jsonable(cls, data, schema=SCHEMA)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelFailure:
    """What could not be done for one level of a comparison, and why: it stays in the table.

    `task` says what failed: `make` that the level could not be made (then there is no artifact),
    `score` or `answer` that it was made. `label` is the row's name. `error` is the error's type
    name; `fact`, `cause` and `way_out` are its words.
    """

    created: str
    tool_version: str
    task: Literal["make", "score", "answer"]
    label: str
    error: str
    fact: str
    cause: str
    way_out: str
    artifact: ArtifactRecord | None = None
    kind: Literal["level failure"] = "level failure"
    schema: int = field(default=SCHEMA)

    def to_json(self) -> dict[str, object]:
        """The record as plain JSON values, including the schema number."""
        return _jsonable(self)

    @classmethod
    def from_json(cls, data: object) -> LevelFailure:
        """Reads back what `to_json` wrote. Raises FormatError."""
        return from_jsonable(cls, data, schema=SCHEMA)


ScoreRecord = Scores | Answers | LevelFailure
_KINDS: dict[object, type[Scores | Answers | LevelFailure]] = {
    "scores": Scores,
    "answers": Answers,
    "level failure": LevelFailure,
}


def is_score_record(data: object) -> bool:
    """Whether JSON data says that it is one of these records."""
    kind = data.get("kind") if isinstance(data, dict) else None
    return isinstance(kind, str) and kind in _KINDS


def read_score_record(data: object) -> ScoreRecord:
    """Reads scores, answers or a failed level, whichever the data is. Raises FormatError."""
    kind = _KINDS[data["kind"]] if is_score_record(data) and isinstance(data, dict) else None
    if kind is None:
        raise FormatError("This is no record of scores or answers.")
    return kind.from_json(data)


def _jsonable(record: object) -> dict[str, object]:
    value = to_jsonable(record)
    assert isinstance(value, dict)
    return value
