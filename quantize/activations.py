"""What went into each matrix while llama.cpp computed: squared activations, summed by column.

llama.cpp asks a callback about every node of its graph, before and after computing it
(`llama_context_params.cb_eval`), and hands over a `ggml_tensor`, whose layout is no part of what
its bindings publish. It is mirrored here and held against what the library says of the same tensor
by its own functions; a library that says otherwise is refused before any number is believed. This
is read in the process that computes and in no other. Knows nothing of texts, models and files.

What is summed is what `llama-imatrix` sums (llama.cpp, tools/imatrix/imatrix.cpp); the sums are
kept as float64, so that a long text loses nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

_DIMS, _SOURCES, _NAME_BYTES, _PARAMETER_BYTES = 4, 10, 64, 64  # GGML_MAX_*, ggml.h
_OBJECT_BYTES = 32  # sizeof(struct ggml_object): what ggml_tensor_overhead counts beside a tensor
_F32, _I32 = 0, 26  # ggml_type, ggml.h
_MOST_OPERATIONS = 64
"""How far the table of operations is searched; both of ours stand in its first half."""
_FEW_ROWS = 16
"""Fewer rows than these are not counted: a single token's would be the step of some other use."""
_MOST = float(np.finfo(np.float32).max)
_BLOCK_ROWS = 64
"""Rows added up in float32, as fast as it goes, before float64 takes over: errors stay at 1e-6."""


class _Tensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _DIMS),
        ("nb", ctypes.c_size_t * _DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * (_PARAMETER_BYTES // 4)),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * _NAME_BYTES),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


class UnreachableError(Exception):
    """A build of llama.cpp does not let its activations be seen; the message says why."""


class ActivationsError(Exception):
    """What the model computes cannot be summed; the message says which and why."""


class Ggml:
    """The functions of ggml that its bindings do not publish.

    Raises UnreachableError where one is missing, or a tensor is laid out another way.
    """

    def __init__(self) -> None:
        libraries = tuple(_libraries())
        size, pointer, text = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p
        self.nbytes = _function(libraries, "ggml_nbytes", size, pointer)
        self._overhead = _function(libraries, "ggml_tensor_overhead", size)
        self._elements = _function(libraries, "ggml_nelements", ctypes.c_int64, pointer)
        self._name = _function(libraries, "ggml_get_name", text, pointer)
        self._data = _function(libraries, "ggml_get_data", pointer, pointer)
        self._operation = _function(libraries, "ggml_op_name", text, ctypes.c_int)
        self.is_host = _function(libraries, "ggml_backend_buffer_is_host", ctypes.c_bool, pointer)
        self.copy = _function(
            libraries, "ggml_backend_tensor_get", None, pointer, pointer, size, size
        )
        expected = _OBJECT_BYTES + ctypes.sizeof(_Tensor)
        if (found := self._overhead()) != expected:
            raise UnreachableError(
                f"A tensor takes {found} bytes in it; the layout known here takes {expected}."
            )
        self.product = self._number_of(b"MUL_MAT")
        self.product_of_experts = self._number_of(b"MUL_MAT_ID")

    def check(self, address: int, tensor: _Tensor) -> None:
        """Holds a mirrored tensor against what ggml says of it. Raises UnreachableError."""
        elements = int(np.prod(tensor.ne[:], dtype=object))
        if (
            self._name(address) != tensor.name
            or self._elements(address) != elements
            or self._data(address) != tensor.data
        ):
            raise UnreachableError("Its tensors are laid out in a way that is not known here.")

    def _number_of(self, name: bytes) -> int:
        for number in range(_MOST_OPERATIONS):
            if self._operation(number) == name:
                return number
        raise UnreachableError(f"It has no operation {name.decode()}.")


def _libraries() -> Iterator[Any]:
    """Where ggml's functions may be: libraries of their own, or inside llama.cpp's."""
    import llama_cpp.llama_cpp as bindings
    from llama_cpp import _ctypes_extensions
    from llama_cpp._ggml import libggml, libggml_base_path

    yield libggml
    # Not everywhere does one library show another's functions; not every build has this one.
    with contextlib.suppress(OSError, RuntimeError):
        yield _ctypes_extensions.load_shared_library("ggml-base", libggml_base_path)
    yield bindings._lib


def _function(libraries: tuple[Any, ...], name: str, result: Any, *arguments: Any) -> Any:
    for library in libraries:
        function = getattr(library, name, None)
        if function is not None:
            function.argtypes, function.restype = arguments, result
            return function
    raise UnreachableError(f"It has no function {name}.")


class Collector:
    """Sums squared activations by the name of the matrix they went into: the callback itself.

    `sums[name]` is float64 of shape (experts, columns), one row for a matrix that is no stack of
    experts; `counts[name]` how many activations went into each row. A stack that is used whole, as
    the heads of a latent attention are, has one row for all of it, as llama-imatrix has.
    `output` counts the output matrix too. What goes wrong inside is kept in `problem`: the engine's
    stack is no place to raise through, and it is told to stop computing instead.
    """

    def __init__(self, ggml: Ggml, *, output: bool) -> None:
        self._ggml = ggml
        self._output = output
        self._checked = False
        self.sums: dict[str, npt.NDArray[np.float64]] = {}
        self.counts: dict[str, npt.NDArray[np.int64]] = {}
        self.problem: BaseException | None = None

    def __call__(self, address: int, ask: bool, _user: object) -> bool:
        """Says whether a node is wanted, and after it was computed whether to go on."""
        try:
            node = _Tensor.from_address(address)
            if ask:
                return self._is_wanted(node)
            self._collect(node)
        except BaseException as error:  # whatever is raised into C is lost: it is kept
            self.problem = self.problem or error
            return False
        return True

    def broken(self) -> str | None:
        """The name of a matrix whose sums are no finite float32 any more, None when all are."""
        return next((n for n, sums in self.sums.items() if not (sums <= _MOST).all()), None)

    def _is_wanted(self, node: _Tensor) -> bool:
        if node.op == self._ggml.product_of_experts:
            return True
        if node.op != self._ggml.product:
            return False
        inputs = _Tensor.from_address(node.src[1])
        if inputs.type != _F32 or inputs.ne[1] < _FEW_ROWS:
            return False
        name = _name_of(_Tensor.from_address(node.src[0]))
        return name.startswith("blk.") or (self._output and name == "output.weight")

    def _collect(self, node: _Tensor) -> None:
        weights, inputs = (_Tensor.from_address(node.src[i]) for i in (0, 1))
        if not self._checked:
            for address, tensor in zip(node.src[:2], (weights, inputs), strict=True):
                self._ggml.check(address, tensor)
            self._checked = True
        name = _name_of(weights)
        if inputs.type != _F32:
            raise ActivationsError(f"What goes into {name} is not F32.")
        values = self._array(node.src[1], inputs, np.float32)
        if node.op == self._ggml.product_of_experts:
            chosen = _Tensor.from_address(node.src[2])
            if chosen.type != _I32:
                raise ActivationsError(f"The choice of experts of {name} is no list of numbers.")
            ids = self._array(node.src[2], chosen, np.int32)
            self._add_experts(name, int(weights.ne[2]), values, ids)
        else:
            self._add(name, (int(weights.ne[3]), int(weights.ne[2])), values)

    def _array(self, address: int, tensor: _Tensor, kind: type) -> npt.NDArray[Any]:
        """A tensor's numbers, ggml's dims reversed; a copy where they lie on a device."""
        size = int(self._ggml.nbytes(address))
        held: Any
        if self._ggml.is_host(tensor.buffer):
            held = (ctypes.c_char * size).from_address(tensor.data)
        else:
            held = ctypes.create_string_buffer(size)
            self._ggml.copy(address, held, 0, size)
        # Refused by numpy when dims and steps would lead beyond the bytes.
        return np.ndarray(
            shape=tuple(tensor.ne[::-1]), dtype=kind, buffer=held, strides=tuple(tensor.nb[::-1])
        )

    def _add(self, name: str, stack: tuple[int, int], values: npt.NDArray[np.float32]) -> None:
        columns, matrices = values.shape[3], stack[0] * stack[1]
        sums, counts = self._row(name, 1, matrices * columns)
        by_matrix = sums.reshape(matrices, columns)
        for outer, inner in np.ndindex(values.shape[:2]):
            at = (outer % stack[0]) * stack[1] + inner % stack[1]
            by_matrix[at] += _squared(values[outer, inner])
        counts += values.shape[0] * values.shape[1] * values.shape[2] // matrices

    def _add_experts(
        self, name: str, experts: int, values: npt.NDArray[np.float32], ids: npt.NDArray[np.int32]
    ) -> None:
        if values.shape[0] != 1 or ids.shape[2] != values.shape[1]:
            raise ActivationsError(f"The choice of experts of {name} does not fit what goes in.")
        sums, counts = self._row(name, experts, values.shape[3])
        chosen = ids[0, 0]  # of shape (tokens, experts per token)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < experts:
            raise ActivationsError(f"An expert is chosen that {name} does not have.")
        for expert in np.unique(chosen):
            tokens, places = np.nonzero(chosen == expert)
            # One input for all chosen experts of a token, or one for each.
            sums[expert] += _squared(values[0, tokens, places % values.shape[2]])
            counts[expert] += len(tokens)

    def _row(
        self, name: str, experts: int, columns: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        sums = self.sums.setdefault(name, np.zeros((experts, columns)))
        if sums.shape != (experts, columns):
            raise ActivationsError(f"{name} is used in two ways that do not go together.")
        return sums, self.counts.setdefault(name, np.zeros(experts, np.int64))


def _name_of(tensor: _Tensor) -> str:
    """A matrix's name; a copy of it on a device is called `CUDA0#name#0`."""
    name: str = tensor.name.decode("utf-8", "replace")
    parts = name.split("#")
    return parts[1] if len(parts) > 1 else name


def _squared(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The squares of some rows, summed by column."""
    total = np.zeros(rows.shape[1])
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        total += np.einsum("ij,ij->j", block, block)
    return total
