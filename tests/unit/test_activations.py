"""Squares are summed as plain numpy sums them, however a tensor lies in memory and wherever."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize import activations
from quantize.activations import ActivationsError, Collector, Ggml, UnreachableError

pytestmark = pytest.mark.engine

PRODUCT, OF_EXPERTS, OTHER = 29, 30, 3
F32, F16, I32 = 0, 1, 26
Tensor = activations._Tensor


class Memory:
    """ggml as the collector asks it; tensors in `device` memory can only be copied from."""

    product, product_of_experts = PRODUCT, OF_EXPERTS

    def __init__(self) -> None:
        self.kept: list[object] = []
        self.device: dict[int, np.ndarray] = {}

    def tensor(
        self, values: np.ndarray | None, *, name: str = "", kind: int = F32, on_device: bool = False
    ) -> Tensor:
        tensor = Tensor(type=kind, name=name.encode())
        tensor.ne[:] = (1, 1, 1, 1)
        if values is not None:
            assert values.ndim <= 4
            tensor.ne[: values.ndim] = values.shape[::-1]
            tensor.nb[: values.ndim] = values.strides[::-1]
            tensor.data = values.ctypes.data
        tensor.buffer = 2 if on_device else 1
        self.kept += [tensor, values]
        if on_device:
            self.device[ctypes.addressof(tensor)] = values
            tensor.data = None  # reading it here would end the process
        return tensor

    def node(self, operation: int, *sources: Tensor) -> int:
        node = Tensor(op=operation)
        for i, source in enumerate(sources):
            node.src[i] = ctypes.addressof(source)
        self.kept.append(node)
        return ctypes.addressof(node)

    def is_host(self, buffer: int) -> bool:
        return buffer == 1

    def nbytes(self, address: int) -> int:
        tensor = Tensor.from_address(address)
        return 4 + sum((n - 1) * s for n, s in zip(tensor.ne, tensor.nb, strict=True))

    def copy(self, address: int, to: ctypes.Array, _start: int, size: int) -> None:
        ctypes.memmove(to, self.device[address].ctypes.data, size)

    def check(self, _address: int, _tensor: Tensor) -> None:
        pass


def matrix(memory: Memory, name: str, stack: tuple[int, ...] = ()) -> Tensor:
    weights = memory.tensor(None, name=name, kind=F16)
    for i, size in enumerate(reversed(stack)):
        weights.ne[2 + i] = size
    return weights


def run(collector: Collector, node: int) -> bool:
    return collector(node, True, None) and collector(node, False, None)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(16, 200),
    columns=st.integers(1, 40),
    gap=st.integers(0, 5),
    seed=st.integers(0, 2**32 - 1),
    on_device=st.booleans(),
)
def test_a_matrix_has_the_squares_of_its_columns(
    rows: int, columns: int, gap: int, seed: int, on_device: bool
) -> None:
    memory = Memory()
    wide = np.random.default_rng(seed).standard_normal((rows, columns + gap)).astype(np.float32)
    values = wide[:, :columns]  # with a gap after each row
    name = "blk.3.attn_k.weight"
    weights = matrix(memory, f"CUDA0#{name}#0" if on_device else name)
    collector = Collector(memory, output=False)
    node = memory.node(PRODUCT, weights, memory.tensor(values, on_device=on_device))
    assert run(collector, node)
    assert run(collector, node)
    assert collector.problem is None
    assert collector.counts[name].tolist() == [2 * rows]
    expected = 2 * (values.astype(np.float64) ** 2).sum(0, keepdims=True)
    assert collector.sums[name] == pytest.approx(expected, rel=1e-5)


def test_only_matrices_of_layers_are_wanted_and_only_with_many_rows() -> None:
    memory = Memory()
    collector, whole = (Collector(memory, output=o) for o in (False, True))
    many, few = (memory.tensor(np.ones((rows, 4), np.float32)) for rows in (16, 15))
    layer, output, other = (
        matrix(memory, name) for name in ("blk.0.ffn_up.weight", "output.weight", "cls.weight")
    )
    asked = lambda of, *node: of(memory.node(*node), True, None)  # noqa: E731
    assert asked(collector, PRODUCT, layer, many)
    assert not asked(collector, PRODUCT, layer, few)
    assert not asked(collector, OTHER, layer, many)
    assert not asked(collector, PRODUCT, other, many)
    assert not asked(collector, PRODUCT, output, many)
    assert asked(whole, PRODUCT, output, many)
    half = memory.tensor(np.ones((16, 4), np.float32), kind=F16)
    assert not asked(collector, PRODUCT, layer, half)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("on_device", [True, False])
def test_experts_have_what_their_tokens_brought(shared: bool, on_device: bool) -> None:
    memory = Memory()
    random = np.random.default_rng(3)
    tokens, used, experts, columns = 40, 3, 6, 7
    values = random.standard_normal((tokens, 1 if shared else used, columns)).astype(np.float32)
    ranked = np.stack([random.permutation(experts) for _ in range(tokens)]).astype(np.int32)
    chosen = ranked[:, :used]  # a view of the ranking, as ggml has it
    name = "blk.0.ffn_down_exps.weight"
    collector = Collector(memory, output=False)
    node = memory.node(
        OF_EXPERTS,
        matrix(memory, name, (experts,)),
        memory.tensor(values, on_device=on_device),
        memory.tensor(chosen, kind=I32, on_device=on_device),
    )
    assert run(collector, node)
    expected, counts = np.zeros((experts, columns)), np.zeros(experts, int)
    for token in range(tokens):
        for place, expert in enumerate(chosen[token]):
            expected[expert] += values[token, 0 if shared else place].astype(np.float64) ** 2
            counts[expert] += 1
    assert collector.counts[name].tolist() == counts.tolist()
    assert collector.sums[name] == pytest.approx(expected, rel=1e-5)


def test_a_stack_used_whole_has_one_count() -> None:
    memory = Memory()
    values = np.random.default_rng(4).standard_normal((1, 6, 20, 5)).astype(np.float32)
    collector = Collector(memory, output=False)
    name = "blk.0.attn_k_b.weight"
    assert run(collector, memory.node(PRODUCT, matrix(memory, name, (3,)), memory.tensor(values)))
    # Six heads in, three matrices: each serves two, one after the other.
    by_matrix = (values.astype(np.float64) ** 2).sum(2)[0].reshape(2, 3, 5).sum(0)
    assert collector.sums[name] == pytest.approx(by_matrix.reshape(1, 15), rel=1e-5)
    assert collector.counts[name].tolist() == [40]


def test_tensors_that_the_library_describes_otherwise_stop_the_engine() -> None:
    class Other(Memory):
        def check(self, address: int, tensor: Tensor) -> None:
            raise UnreachableError("Its tensors are laid out otherwise.")

    memory = Other()
    collector = Collector(memory, output=False)
    many = memory.tensor(np.ones((16, 4), np.float32))
    assert not run(collector, memory.node(PRODUCT, matrix(memory, "blk.0.ffn_up.weight"), many))
    assert isinstance(collector.problem, UnreachableError)
    assert not collector.sums


def test_a_stack_of_stacks_is_laid_out_as_the_file_has_it() -> None:
    memory = Memory()
    values = np.random.default_rng(4).standard_normal((4, 3, 20, 5)).astype(np.float32)
    collector = Collector(memory, output=False)
    name = "blk.0.attn_k_b.weight"
    assert run(collector, memory.node(PRODUCT, matrix(memory, name, (2, 3)), memory.tensor(values)))
    squares = (values.astype(np.float64) ** 2).sum(2)
    assert collector.sums[name] == pytest.approx((squares[:2] + squares[2:]).reshape(1, 30))
    assert collector.counts[name].tolist() == [40]


def test_what_cannot_be_summed_stops_the_engine_and_is_kept() -> None:
    memory = Memory()
    many = np.ones((16, 1, 4), np.float32)
    experts = matrix(memory, "blk.0.ffn_up_exps.weight", (2,))

    def problem(*sources: Tensor) -> BaseException | None:
        collector = Collector(memory, output=False)
        assert not run(collector, memory.node(OF_EXPERTS, *sources))
        return collector.problem

    def ids(value: int, rows: int = 16) -> Tensor:
        return memory.tensor(np.full((rows, 1), value, np.int32), kind=I32)

    for sources, words in (
        ((experts, memory.tensor(many), ids(2)), "does not have"),
        ((experts, memory.tensor(many), ids(-1)), "does not have"),
        ((experts, memory.tensor(many), ids(1, rows=9)), "does not fit"),
        ((experts, memory.tensor(many, kind=F16), ids(1)), "is not F32"),
        ((experts, memory.tensor(many), memory.tensor(many)), "no list of numbers"),
    ):
        found = problem(*sources)
        assert isinstance(found, ActivationsError)
        assert words in str(found)


def test_sums_that_overflow_are_named() -> None:
    memory = Memory()
    collector = Collector(memory, output=False)
    values = np.ones((16, 4), np.float32)
    node = memory.node(PRODUCT, matrix(memory, "blk.0.ffn_up.weight"), memory.tensor(values))
    assert run(collector, node)
    assert collector.broken() is None
    # A file keeps float32: a sum may be finite here and infinite there.
    values[:, 1] = 1.5e19
    for _ in range(2):
        assert run(collector, node)
    assert collector.broken() == "blk.0.ffn_up.weight"
    values[:, 1] = np.nan
    assert run(collector, node)
    assert collector.broken() == "blk.0.ffn_up.weight"


def test_the_installed_library_is_laid_out_as_mirrored() -> None:
    ggml, memory = Ggml(), Memory()
    assert ggml.product != ggml.product_of_experts
    tensor = memory.tensor(np.ones((3, 5, 7), np.float32), name="blk.0.ffn_up.weight")
    ggml.check(ctypes.addressof(tensor), tensor)
    for field, value in (("name", b"blk.0"), ("data", 4096)):
        other = Tensor.from_buffer_copy(tensor)
        setattr(other, field, value)
        with pytest.raises(UnreachableError, match="not known here"):
            ggml.check(ctypes.addressof(tensor), other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_OBJECT_BYTES": 40}, r"A tensor takes \d+ bytes in it"),
        ({"_MOST_OPERATIONS": 2}, "It has no operation MUL_MAT"),
        ({"_libraries": lambda: iter(())}, "It has no function ggml_nbytes"),
    ],
)
def test_a_library_laid_out_otherwise_is_refused(
    change: dict[str, object],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in change.items():
        monkeypatch.setattr(activations, name, value)
    with pytest.raises(UnreachableError, match=words):
        Ggml()
