"""Which model a row is about: its shape in the catalogue, its parameters, and those a token reads.

What is known of models outside the catalogue stands in `models.toml`, each with its source.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import profiles

_NUMBER = r"(\d+(?:\.\d+)?)"
_MIXTURE = re.compile(rf"(?<![a-z0-9.]){_NUMBER}b[-_. (]*a{_NUMBER}(b|m)(?![a-z0-9])")
_SIZE = re.compile(rf"(?<![a-z0-9.]){_NUMBER}(b|m)(?![a-z0-9])")
_SCALE = {"b": 1e9, "m": 1e6}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model as the rows have it.

    `nominal`: the parameters are only those of its name; `tied`: it is known that one matrix is
    input embedding and output.
    """

    name: str
    model_id: str = ""
    model_type: str
    parameters: float | None
    active_parameters: float | None = None
    nominal: bool = False
    tied: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fact:
    pattern: re.Pattern[str]
    model_id: str
    model_type: str
    parameters: float | None
    active_parameters: float | None
    tied: bool


@functools.cache
def _facts() -> tuple[_Fact, ...]:
    data = tomllib.loads((Path(__file__).parent / "models.toml").read_text(encoding="utf-8"))
    return tuple(
        _Fact(
            pattern=re.compile(entry["match"]),
            model_id=entry.get("id", ""),
            model_type=entry.get("type", "dense"),
            parameters=entry.get("parameters"),
            active_parameters=entry.get("active"),
            tied=entry.get("tied", False),
        )
        for entry in data["model"]
    )


def plain_name(model: str) -> str:
    """A model's name without folders, endings, publishers and level, else as published."""
    pieces = [piece for piece in model.strip().split("/") if piece]
    while len(pieces) > 1 and re.fullmatch(r"(?i)(ud-)?i?q\d\w*", pieces[-1]):
        pieces.pop()
    if pieces[-1:] == ["default"]:
        return model.strip()
    name = pieces[-1] if pieces else ""
    name = re.sub(r"(?i)\.(gguf|litertlm|task|pte|bin|safetensors)$", "", name)
    name = re.sub(r"(?i)[-._: ](ud-)?i?q\d(_[a-z0-9]+)*(?=$|-fp16$)", "", name)
    return re.sub(r"(?i)(-gguf|-ud|[- ](bf16|mxfp4|nvfp4)( moe)?)+$", "", name)


def known_model(model: str, said_billions: float | None, said_type: str) -> KnownModel:
    """What is known of the model of that name.

    The catalogue and `models.toml` come first, then the size that stands in the name of a mixture
    (30B-A3B), then the number of parameters the source gives, then the size in any name.
    """
    name = plain_name(model)
    low = re.sub(r"[_:\s]+", "-", model.lower())
    said_type = said_type if said_type in ("dense", "moe", "hybrid", "ple") else "unknown"
    found = _MIXTURE.search(low)
    for fact in _facts():
        if fact.pattern.search(low) and (fact.active_parameters or not found):
            return _from_fact(name, fact, said_billions, low)
    if found:
        return KnownModel(
            name=name,
            model_type="moe",
            parameters=_believed(float(found[1]) * 1e9, said_billions),
            active_parameters=float(found[2]) * _SCALE[found[3]],
            nominal=True,
        )
    if said_billions:
        nominal = said_billions == round(said_billions, 1)
        return KnownModel(
            name=name, model_type=said_type, parameters=said_billions * 1e9, nominal=nominal
        )
    size = _size(low)
    return KnownModel(name=name, model_type=said_type, parameters=size, nominal=size is not None)


def _from_fact(name: str, fact: _Fact, said_billions: float | None, low: str) -> KnownModel:
    if fact.model_id:
        entry = profiles.model(fact.model_id)
        return KnownModel(
            name=name,
            model_id=fact.model_id,
            model_type=fact.model_type,
            parameters=float(entry.parameters),
            active_parameters=fact.active_parameters,
            tied=embedding_share(fact.model_id) == 0.0,
        )
    nominal = fact.parameters is None
    parameters = fact.parameters
    if parameters is None:
        parameters = _believed(_size(low), said_billions)
    return KnownModel(
        name=name,
        model_type=fact.model_type,
        parameters=parameters,
        active_parameters=fact.active_parameters,
        nominal=nominal,
        tied=fact.tied,
    )


def _size(name: str) -> float | None:
    """The number of parameters that stands in a name, as 7B or 350M."""
    found = _SIZE.search(name)
    return float(found[1]) * _SCALE[found[2]] if found else None


def _believed(named: float | None, said_billions: float | None) -> float | None:
    """A source's exact number where it is near the one in the name, else that of the name."""
    said = said_billions * 1e9 if said_billions else None
    if named is None or (said is not None and abs(said / named - 1) < 0.15):
        return said
    return named


def embedding_share(model_id: str) -> float:
    """The share of a catalogued model's parameters that a token does not read.

    It is the input embedding where the output matrix is another; 0 where they are one.
    """
    config: Mapping[str, object] = profiles.model(model_id).config
    vocabulary, width = config.get("vocab_size"), config.get("hidden_size")
    if config.get("tie_word_embeddings") is not False:
        return 0.0
    if not (isinstance(vocabulary, int) and isinstance(width, int)):
        return 0.0
    return vocabulary * width / profiles.model(model_id).parameters
