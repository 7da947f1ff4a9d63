"""Every tensor of a checkpoint gets its one place or is refused by name; none is guessed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_runtime.errors import FormatError
from quantize.matching import Names, assign
from quantize.safetensors import SourceTensor

FAMILY = SimpleNamespace(
    gguf="llama",
    names={
        "model.embed.weight": "token_embd.weight",
        "model.layers.{layer}.q.weight": "blk.{layer}.attn_q.weight",
        "model.layers.{layer}.mlp.0.weight": "blk.{layer}.ffn_up.weight",
        "model.layers.{layer}.mlp.1.weight": "blk.{layer}.ffn_down.weight",
        "model.layers.{layer}.experts.{expert}.w.weight": "blk.{layer}.ffn_up_exps.weight",
        "model.layers.{layer}.experts.gate_up": (
            "blk.{layer}.ffn_gate_exps.weight",
            "blk.{layer}.ffn_up_exps.weight",
        ),
    },
    dropped=("*.inv_freq", "vision.*"),
    prefixes=("transformer.",),
)


def assigned(*names: str, wanted: tuple[str, ...]) -> dict[str, list[tuple[str, int | None, int]]]:
    tensors = {
        name: SourceTensor(
            name=name, dtype="F32", dims=(1,), path=Path(), offset_bytes=0, size_bytes=4
        )
        for name in names
    }
    found = assign(SimpleNamespace(tensors=tensors), FAMILY, wanted)
    return {
        target: [(part.source.name, part.expert, part.share) for part in parts]
        for target, parts in found.items()
    }


def test_names_are_filled_in_and_dropped() -> None:
    found = assigned(
        "model.embed.weight", "model.layers.12.q.weight", "model.layers.12.inv_freq", "vision.x.1",
        wanted=("token_embd.weight", "blk.12.attn_q.weight"),
    )  # fmt: skip
    assert found == {
        "token_embd.weight": [("model.embed.weight", None, 0)],
        "blk.12.attn_q.weight": [("model.layers.12.q.weight", None, 0)],
    }


def test_numbers_that_belong_to_a_name_are_no_layers() -> None:
    names = Names(FAMILY)
    assert names.targets("model.layers.3.mlp.0.weight") == (("blk.3.ffn_up.weight",), None)
    assert names.targets("model.layers.3.mlp.1.weight") == (("blk.3.ffn_down.weight",), None)
    for name in ("model.layers.3.mlp.2.weight", "model.layers.03.q.weight",
                 "model.layers.-1.q.weight", "model.layers.٣.q.weight",
                 "model.layers.1234567.q.weight", "x.model.embed.weight"):  # fmt: skip
        assert names.targets(name) == ((), None)


def test_a_prefix_may_be_there_or_not() -> None:
    for prefix in ("", "transformer."):
        names = (f"{prefix}model.embed.weight", f"{prefix}vision.x")
        assert assigned(*names, wanted=("token_embd.weight",))


def test_parts_come_in_the_order_of_their_numbers() -> None:
    names = [f"model.layers.0.experts.{i}.w.weight" for i in range(12)]
    (parts,) = assigned(*sorted(names), wanted=("blk.0.ffn_up_exps.weight",)).values()
    assert [(name, number) for name, number, _ in parts] == list(zip(names, range(12), strict=True))


def test_a_fused_source_goes_to_each_of_its_targets() -> None:
    found = assigned(
        "model.layers.0.experts.gate_up",
        wanted=("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"),
    )
    assert {target: share for target, ((_, _, share),) in found.items()} == {
        "blk.0.ffn_gate_exps.weight": 0,
        "blk.0.ffn_up_exps.weight": 1,
    }


@pytest.mark.parametrize(
    ("names", "wanted", "words"),
    [
        (["model.embed.weight", "model.layers.0.qq.weight"], ["token_embd.weight"],
         r"layers\.0\.qq\.weight has no place.*Nearest.*model\.layers\.0\.q\.weight"),
        (["model.layers.0.q.weight", "model.layers.1.q.weight"], ["blk.0.attn_q.weight"],
         r"layers\.1\.q\.weight has no place.*become blk\.1\.attn_q\.weight.*no room"),
        (["model.layers.0.experts.gate_up"], ["blk.0.ffn_gate_exps.weight"], "has no place"),
        ([], ["token_embd.weight"], r"lacks the tensor that becomes token_embd\.weight"),
        (["model.embed.weight", "transformer.model.embed.weight"], ["token_embd.weight"],
         r"Several tensors.*become token_embd\.weight.*transformer\.model"),
        (["model.layers.0.experts.0.w.weight", "model.layers.0.experts.2.w.weight"],
         ["blk.0.ffn_up_exps.weight"], "lacks part 1"),
        (["model.layers.0.experts.1.w.weight"], ["blk.0.ffn_up_exps.weight"], "lacks part 0"),
        (["\x1b[2J"], [], r"'\\x1b\[2J' has no place"),
    ],
)  # fmt: skip
def test_what_has_no_one_place_is_refused_by_name(
    names: list[str], wanted: list[str], words: str
) -> None:
    with pytest.raises(FormatError, match=words):
        assigned(*names, wanted=tuple(wanted))


def test_names_beyond_number_and_length_are_refused_quickly() -> None:
    names = [f"model.layers.{i}.{'x' * 3000}.weight" for i in range(50)]
    with pytest.raises(FormatError, match="has no place") as caught:
        assigned(*names, wanted=())
    assert len(str(caught.value)) < 500
