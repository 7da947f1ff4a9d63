"""The log of a dry run is read tensor by tensor, whatever the tensors are called."""

from __future__ import annotations

import dataclasses

import pytest

from edge_runtime.artifact import Artifact, ModelShape, TensorInfo, tensor_type
from edge_runtime.errors import BackendError
from quantize import synthesize
from quantize.planning import read_log

NAMES = (
    "token_embd.weight",
    "blk.0.a_name_longer_than_the_column_it_is_printed_in.weight",
    "a name with - [1, 1, 1, 1], type = inside",
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A file of three tensors with such names, of 64 x 2 each."""
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 64,
              "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 32}  # fmt: skip
    path = tmp_path_factory.mktemp("plan") / "m.gguf"
    made = synthesize(ModelShape.from_config(config, name="m"), "F16", path)
    f16 = tensor_type("F16")
    tensors = tuple(
        TensorInfo(name=name, dims=(64, 2), type=f16, offset_bytes=0, size_bytes=256)
        for name in NAMES
    )
    return dataclasses.replace(made, tensors=tensors)


def line(number: int, rest: str) -> str:
    return f"[{number + 1:4}/   3] {NAMES[number]:<36} - [    64,      2,      1,      1], {rest}"


LOG = (
    "llama_model_loader: loaded meta data",
    (
        f"warning: {NAMES[1]:<36} - ncols     64 not divisible by 256 (required for type    q4_K) "
        "-> falling back to    q5_0"
    ),
    line(0, "type =    f16, size =     0.00 MiB ->     0.00 MiB (q8_0)"),
    line(1, "type =    f16, size =     0.00 MiB ->     0.00 MiB (q5_0)"),
    line(2, "type =    f16, size =    0.000 MiB"),
    "llama_model_quantize_impl: quant size  =     0.00 MiB (8.50 BPW)",
)


def test_every_tensor_is_understood(artifact: Artifact) -> None:
    plans = read_log(LOG, artifact)
    assert [plan.name for plan in plans] == list(NAMES)
    assert [plan.type.name for plan in plans] == ["Q8_0", "Q5_0", "F16"]
    assert [plan.size_bytes for plan in plans] == [2 * 68, 2 * 44, 256]
    assert [plan.why for plan in plans] == [
        "",
        "Rows of 64 are no multiple of the 256 elements of a Q4_K block.",
        "",
    ]


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (LOG[:-2], "2 tensors of 3"),
        ((*LOG, LOG[2].replace("token_embd", "output")), "output.weight as F16"),
        ((*LOG, LOG[2].replace("=    f16", "=    f32")), "token_embd.weight as F32"),
        ((*LOG, LOG[2].replace("q8_0", "q9_9")), "the type q9_9"),
    ],
)
def test_a_log_about_something_else_is_refused(
    artifact: Artifact, log: tuple[str, ...], words: str
) -> None:
    with pytest.raises(BackendError, match=words):
        read_log(log, artifact)
