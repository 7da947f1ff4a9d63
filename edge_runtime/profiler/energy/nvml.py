"""NVIDIA's management library as the meters see it: found, held open, every answer checked.

`nvidia-ml-py` is imported when it is first wanted and may be any object with its functions. Every
call may be refused on its own (a Jetson initialises and answers nothing else), so each one names
itself in the NvmlError it raises. What the numbers mean is known to those who ask.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...basis import Unavailable
from .sysfs import Tree

NOT_SUPPORTED = 3
NOT_PERMITTED = 4
GPU_IS_LOST = 15
_DRIVER_IS_GONE = (1, 9)  # uninitialized, driver not loaded
_NOTHING_AVAILABLE = (2**64 - 1, 2**32 - 1)
"""What the C library writes where it has no value, as under Windows' display driver model."""

_DRIVER_SIGNS = (
    "proc/driver/nvidia/version",
    "dev/nvidiactl",
    "usr/lib/wsl/lib/libnvidia-ml.so.1",
    "Windows/System32/nvml.dll",
)
_FIELD_VALUES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""The members of NVML's value union in the order of its type numbers."""
_INSTALL = "pip install 'edge-runtime[nvidia]'"


class NvmlError(Exception):
    """A call that was refused: which one, in NVIDIA's words, and its error number if it has one."""

    def __init__(self, call: str, words: str, code: int | None = None) -> None:
        super().__init__(f"{call}: {words}")
        self.code = code

    @property
    def driver_is_gone(self) -> bool:
        """Whether the driver was unloaded underneath: its counters begin anew when it is back."""
        return self.code in _DRIVER_IS_GONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU: its number, its name, and the name that stays its own across boots."""

    index: int
    name: str
    uuid: str

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"GPU {self.index}: {self.name}"


class Nvml:
    """The library, initialised while anybody holds it.

    Without persistence mode the driver is unloaded when its last user leaves, and its energy
    counters with it: so whoever reads one keeps holding.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._holders = 0
        self._handles: dict[str, Any] = {}

    def hold(self) -> None:
        """Initialises the library for its first holder. Raises NvmlError."""
        if self._holders == 0:
            self.ask("nvmlInit")
        self._holders += 1

    def release(self) -> None:
        """Shuts the library down after its last holder."""
        self._holders -= 1
        if self._holders == 0:
            self._handles.clear()
            with contextlib.suppress(NvmlError):
                self.ask("nvmlShutdown")

    def begin_again(self) -> None:
        """Initialises the library anew after the driver was reloaded. Raises NvmlError."""
        self._handles.clear()
        self.ask("nvmlInit")

    def ask(self, call: str, *arguments: Any) -> Any:
        """What a function of the library answers. Raises NvmlError."""
        function = getattr(self._module, call, None)
        if function is None:
            raise NvmlError(call, "this version of nvidia-ml-py has no such function", 13)
        try:
            return function(*arguments)
        except Exception as error:  # beside NVIDIA's own, ctypes and the bindings raise anything
            words = str(error) or type(error).__name__
            raise NvmlError(call, words, getattr(error, "value", None)) from error

    def devices(self) -> tuple[tuple[Device, ...], tuple[NvmlError, ...]]:
        """The GPUs that can be named, and why others cannot. Raises NvmlError when none can be."""
        found: list[Device] = []
        refused: list[NvmlError] = []
        for index in range(int(self.ask("nvmlDeviceGetCount"))):
            try:
                handle = self.ask("nvmlDeviceGetHandleByIndex", index)
                name = self._named("nvmlDeviceGetName", handle, "unnamed GPU")
                uuid = self._named("nvmlDeviceGetUUID", handle, f"GPU-{index}")
            except NvmlError as error:
                refused.append(error)
                continue
            device = Device(index=index, name=name, uuid=uuid)
            self._handles[device.uuid] = handle
            found.append(device)
        return tuple(found), tuple(refused)

    def of(self, device: Device, call: str, *arguments: Any) -> Any:
        """What a function that takes a device's handle first answers. Raises NvmlError."""
        handle = self._handles.get(device.uuid)
        if handle is None:
            handle = self.ask("nvmlDeviceGetHandleByIndex", device.index)
            self._handles[device.uuid] = handle
        return self.ask(call, handle, *arguments)

    def number(self, device: Device, call: str, *arguments: Any) -> int:
        """A whole number about a device. Raises NvmlError, also where the library has no value."""
        value = self.of(device, call, *arguments)
        if not isinstance(value, int) or value in _NOTHING_AVAILABLE or value < 0:
            raise NvmlError(call, "not available", NOT_SUPPORTED)
        return value

    def field(self, device: Device, field: int, scope: int) -> int:
        """A field's value in a scope of the chip. Raises NvmlError."""
        call = "nvmlDeviceGetFieldValues"
        answers: Sequence[Any] = self.of(device, call, [(field, scope)])
        words = f"field {field}, scope {scope}"
        if len(answers) != 1:
            raise NvmlError(call, f"{words} has {len(answers)} answers")
        answer = answers[0]
        if answer.nvmlReturn != 0:
            raise NvmlError(call, f"{words}: error {answer.nvmlReturn}", int(answer.nvmlReturn))
        if not 0 <= answer.valueType < len(_FIELD_VALUES):
            raise NvmlError(call, f"{words} is of the unknown type {answer.valueType}")
        value = getattr(answer.value, _FIELD_VALUES[answer.valueType])
        if value in _NOTHING_AVAILABLE or not value >= 0:
            raise NvmlError(call, f"{words}: not available", NOT_SUPPORTED)
        return int(value)

    def _named(self, call: str, handle: Any, otherwise: str) -> str:
        try:
            name = self.ask(call, handle)
        except NvmlError as error:
            if error.code == GPU_IS_LOST:
                raise
            return otherwise
        # Bindings before 11.5 answer in bytes.
        return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def driver_is_present(tree: Tree) -> bool:
    """Whether the machine has NVIDIA's driver, as its files tell."""
    return any(tree.exists(path) for path in _DRIVER_SIGNS)


def open_nvml(tree: Tree, *, module: Any = None) -> Nvml | Unavailable:
    """The library, held once for the caller, or why it cannot be used.

    `module` stands in for nvidia-ml-py. Below another root only a driver that shows itself there is
    asked: this machine's GPUs are no part of a tree of files.
    """
    no_driver = Unavailable(reason="no NVIDIA driver")
    present = driver_is_present(tree)
    if module is None:
        if tree.root != Path("/") and not present:
            return no_driver
        try:
            module = importlib.import_module("pynvml")
        except ImportError:
            if not present:
                return no_driver
            return Unavailable(
                reason="an NVIDIA driver is present, the package nvidia-ml-py is not",
                remedy=_INSTALL,
            )
    if hasattr(module, "__path__") and hasattr(module, "nvml"):
        # Both install a module named pynvml; the old one is a folder and hides NVIDIA's own.
        return Unavailable(
            reason="the old package pynvml stands in the place of NVIDIA's nvidia-ml-py",
            remedy=f"pip uninstall pynvml && {_INSTALL}",
        )
    nvml = Nvml(module)
    try:
        nvml.hold()
    except NvmlError as error:
        return _not_started(error, present=present)
    return nvml


def _not_started(error: NvmlError, *, present: bool) -> Unavailable:
    if not present and error.code != NOT_PERMITTED:
        return Unavailable(reason=f"no NVIDIA driver ({error})")
    remedy = "Update or restart the driver until nvidia-smi works: nvidia-smi"
    if error.code == NOT_PERMITTED:
        remedy = "Join the group that owns /dev/nvidiactl: ls -l /dev/nvidiactl"
    return Unavailable(reason=f"the NVIDIA driver does not answer ({error})", remedy=remedy)
