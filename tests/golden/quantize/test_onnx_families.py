"""What families and configs ask of an ONNX graph beside the usual, held against what must be so.

Logits and continuations of transformers are compared elsewhere; here one checkpoint is held against
another that has to compute the same, or is refused.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from golden.quantize.checkpoint_case import Case
from golden.quantize.onnx_graphs import BY_NAME, Array, Convert, Model

from edge_runtime.errors import UnsupportedError
from quantize.onnx.blocks import BlockFormat
from quantize.onnx.conversion import convert_onnx
from quantize.onnx.experts import InTurn, fitting_blocks
from quantize.onnx.levels import onnx_level
from quantize.onnx.weights import Buffers, Floats

pytest.importorskip("onnxruntime")

NUMBERS = itertools.count()


def changed(name: str, **config: object) -> Case:
    """A case with other keys in its config, None for those taken away; its weights are the same."""
    merged = {**BY_NAME[name].config, **config}
    kept = {key: value for key, value in merged.items() if value is not None}
    return dataclasses.replace(BY_NAME[name], config=kept)


def logits(case: Case, folder: Path, tokens: list[int], level: str = "fp32") -> Array:
    out = folder / f"{case.name}-{next(NUMBERS)}"
    convert_onnx(case.write(out.with_suffix(".in")), out, level=level)
    return Model(out).run(tokens)[0]


def same(found: Array, right: Array) -> None:
    np.testing.assert_allclose(found, right, atol=1e-5 * np.abs(right).max())


def test_dynamic_scaling_is_another_base_for_every_length(tmp_path: Path) -> None:
    context, factor, length, theta, width = 64, 3.0, 150, 10000.0, 16
    scaling = {"rope_type": "dynamic", "factor": factor}
    dynamic = changed("tinyllama", max_position_embeddings=context, rope_scaling=scaling)
    tokens = dynamic.sequence(length)
    grown = theta * (factor * length / context - (factor - 1)) ** (width / (width - 2))
    wanted = logits(changed("tinyllama", rope_theta=grown), tmp_path, tokens)
    same(logits(dynamic, tmp_path, tokens), wanted)
    assert relative_error(logits(dynamic, tmp_path, tokens, "fp16"), wanted) < 0.01
    short = tokens[:context]
    same(logits(dynamic, tmp_path, short), logits(changed("tinyllama"), tmp_path, short))


def test_a_text_may_outgrow_the_context_that_a_config_states(tmp_path: Path) -> None:
    tokens = BY_NAME["tinyllama"].sequence(200)
    narrow = logits(changed("tinyllama", max_position_embeddings=32), tmp_path, tokens)
    same(narrow, logits(BY_NAME["tinyllama"], tmp_path, tokens))


def test_yarn_takes_the_context_for_the_first_one_unless_told(tmp_path: Path) -> None:
    def yarn(**more: object) -> Case:
        scaling = {"rope_type": "yarn", "factor": 4.0, **more}
        return changed("tinyllama", max_position_embeddings=64, rope_scaling=scaling)

    tokens = yarn().sequence(100)
    told = logits(yarn(original_max_position_embeddings=64), tmp_path, tokens)
    same(logits(yarn(), tmp_path, tokens), told)


def test_mistral_layers_have_the_windows_that_are_listed(tmp_path: Path) -> None:
    tokens = BY_NAME["mistral"].sequence(40)

    def of(*kinds: str) -> Array:
        listed = [f"{kind}_attention" for kind in kinds] or None
        return logits(changed("mistral", layer_types=listed), tmp_path, tokens)

    usual = of()
    same(of("sliding", "sliding"), usual)
    assert np.abs(of("full", "sliding") - usual).max() > 0.01 * np.abs(usual).max()
    same(of("full", "full"), logits(changed("mistral", sliding_window=None), tmp_path, tokens))


def test_multipliers_of_one_change_nothing(tmp_path: Path) -> None:
    ones = dict.fromkeys(
        ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"), 1
    )
    absent = dict.fromkeys(ones)
    tokens = BY_NAME["granite"].sequence(20)
    stated = logits(changed("granite", **ones), tmp_path, tokens)
    same(stated, logits(changed("granite", **absent), tmp_path, tokens))


@pytest.mark.parametrize(
    ("name", "config", "fact"),
    [
        ("gemma-3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("qwen2-moe", {"use_sliding_window": True, "sliding_window": 16}, "layer_types"),
        ("gemma-3", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
    ],
)
def test_what_no_graph_here_computes_is_refused(
    tmp_path: Path, name: str, config: dict[str, object], fact: str
) -> None:
    checkpoint = changed(name, **config).write(tmp_path / "in")
    with pytest.raises(UnsupportedError, match=fact):
        convert_onnx(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def relative_error(found: Array, right: Array) -> float:
    return float(np.sqrt(((found - right) ** 2).mean() / (right**2).mean()))


EXPERTS = ["mixtral", "qwen2-moe", "qwen3-moe", "olmoe"]


@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize(
    ("level", "options", "most"),
    [
        ("fp16", {}, 0.01),
        ("int8", {}, 0.1),
        ("int8", {"symmetric": False}, 0.1),
        ("int4", {"block_size": 16, "symmetric": False, "algorithm": "k_quant"}, 0.5),
    ],
)
def test_experts_lose_what_their_bits_lose(
    converted: Convert, name: str, level: str, options: dict[str, object], most: float
) -> None:
    tokens = BY_NAME[name].sequence(40)
    right, _ = Model(converted(name)).run(tokens)
    found, _ = Model(converted(name, level, **options)).run(tokens)
    # A token whose experts score almost equally may go to another expert: the median token counts.
    errors = [relative_error(a, b) for a, b in zip(found, right, strict=True)]
    assert np.median(errors) < most


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_stay_in_stacks_that_one_operator_reads(converted: Convert, name: str) -> None:
    onnx = pytest.importorskip("onnx")
    for level, op in (("fp32", "MoE"), ("int4", "QMoE")):
        model = onnx.load(converted(name, level) / "model.onnx", load_external_data=False)
        ops = [node.op_type for node in model.graph.node]
        assert ops.count(op) == 2


def test_blocks_of_experts_divide_the_rows_of_all_their_matrices() -> None:
    wished = BlockFormat(bits=4, block_size=128)
    assert fitting_blocks(wished, 2048, 768) == wished
    assert fitting_blocks(wished, 2048, 1440) == dataclasses.replace(wished, block_size=32)
    assert fitting_blocks(wished, 2048, 24) is None
    assert fitting_blocks(None, 2048, 768) is None


@dataclasses.dataclass(frozen=True)
class Counting:
    """Rows that hold their own numbers."""

    first: int
    rows: int = 7
    columns: int = 32

    def floats(self, rows: range) -> Floats:
        at = np.array([rows], np.float32).T
        return np.repeat(self.first + 2 * at, self.columns, axis=1)

    def blocks(self, kind: BlockFormat, rows: range) -> Buffers:
        return kind.quantize(self.floats(rows))


@pytest.mark.parametrize("rows", [range(14), range(3, 4), range(3, 8), range(2, 7), range(13, 14)])
def test_rows_in_turn_are_cut_anywhere(rows: range) -> None:
    both = InTurn(first=Counting(0), second=Counting(1))
    assert (both.rows, both.columns) == (14, 32)
    found = both.floats(rows)
    assert found[:, 0].tolist() == list(rows)
    kind = onnx_level("int8")
    blocks = BlockFormat(bits=kind.bits, block_size=kind.block_size)
    for mine, right in zip(both.blocks(blocks, rows), blocks.quantize(found), strict=True):
        np.testing.assert_array_equal(mine, right)
