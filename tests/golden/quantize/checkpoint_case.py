"""A tiny checkpoint as a row of a table, and how it is written to disk: no row is here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .made_up_tokenizers import Files
from .random_weights import FAMILIES, Config, values, write_safetensors

SILU, GELU = 1e-9, 1e-6
"""How far logits may be off: llama.cpp's GELU is a table of half precision."""

Names = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A checkpoint and what is asked of it."""

    name: str
    config: Config
    tokenizer: Callable[[], Files]
    dtype: str = "F16"
    pre: str | None = None
    """The pre-tokenizer's name, which the reference is told: it knows real vocabularies only."""
    shards: int = 1
    rename: Names = str
    """How the checkpoint's tensor names differ from those transformers saves."""
    beside: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Tensors that some checkpoints carry and no model needs; a tied lm_head is the embedding."""
    fused: bool = False
    """Experts lie in one tensor a projection, as transformers 5 holds them in memory."""
    defaults: Config = field(default_factory=dict)
    """What the config leaves to its model class and the tensors' shapes depend on."""
    twin: str | None = None
    """A case of the same weights, where transformers 4.57 would misread this one's config."""
    lengths: tuple[int, ...] = (40,)
    """Tokens of each sequence whose logits are compared."""
    limit: float = SILU

    @property
    def seed(self) -> int:
        """Twins share their weights."""
        return sum((self.twin or self.name).encode())

    def text_config(self) -> Config:
        """The config of the language model."""
        return {**self.defaults, **self.config, **self.config.get("text_config", {})}

    def tensors(self) -> dict[str, np.ndarray]:
        """Every tensor by its name in the checkpoint, float32."""
        config = self.text_config()
        kind = config["model_type"]
        named = dict(FAMILIES[kind](config))
        zero = kind.startswith("gemma")
        made = {
            name: values(name, dims, seed=self.seed, zero_centred=zero)
            for name, dims in named.items()
        }
        if self.fused:
            made = dict(_fused(made, config))
        made = {self.rename(name): array for name, array in made.items()}
        extra = {
            name: values(name, dims, seed=self.seed, zero_centred=False)
            for name, dims in self.beside.items()
        }
        if "lm_head.weight" in extra:
            extra["lm_head.weight"] = made["model.embed_tokens.weight"]
        return {**made, **extra}

    def write(self, path: Path) -> Path:
        """Writes the checkpoint into a new directory."""
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(self.config))
        for name, content in self.tokenizer().items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_bytes(content)
        tensors = self.tensors()
        if self.shards == 1:
            write_safetensors(path / "model.safetensors", tensors, self.dtype)
            return path
        where = {}
        names = list(tensors)
        for i in range(self.shards):
            file = f"model-{i + 1:05d}-of-{self.shards:05d}.safetensors"
            part = {name: tensors[name] for name in names[i :: self.shards]}
            where |= dict.fromkeys(part, file)
            write_safetensors(path / file, part, self.dtype)
        index = {"metadata": {"total_size": 0}, "weight_map": where}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
        return path

    def sequence(self, length: int) -> list[int]:
        """Token ids of a sequence: neighbours differ, none is special."""
        within = min(self.text_config()["vocab_size"], 256) - 16
        return [(11 + 37 * i + 5 * i * i) % within + 10 for i in range(length)]


def _fused(tensors: dict[str, np.ndarray], config: Config) -> Iterable[tuple[str, np.ndarray]]:
    count = config["num_experts"]
    for name, array in tensors.items():
        at, found, rest = name.partition("experts.0.")
        if not found:
            if ".experts." not in name:
                yield name, array
            continue
        parts = {
            kind: np.stack([tensors[f"{at}experts.{e}.{kind}.weight"] for e in range(count)])
            for kind in ("gate_proj", "up_proj", "down_proj")
        }
        if rest == "gate_proj.weight":
            both = [parts["gate_proj"], parts["up_proj"]]
            yield f"{at}experts.gate_up_proj", np.concatenate(both, 1)
        elif rest == "down_proj.weight":
            yield f"{at}experts.down_proj", parts["down_proj"]
