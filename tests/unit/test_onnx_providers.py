"""Which execution providers are asked for, and what is said when one does not do its part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime.backends.onnx import providers
from edge_runtime.errors import BackendError, UsageError
from edge_runtime.measurement import Placement, SessionOptions
from edge_runtime.report.placement import placement_words

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@dataclass
class Engine:
    """Stands for the onnxruntime module: the build of another machine."""

    built_in: Sequence[str] = (CUDA, "CoreMLExecutionProvider", "AzureExecutionProvider", CPU)
    plugin_devices: Sequence[Any] = ()
    registered: list[tuple[str, str]] = field(default_factory=list)
    __version__ = "1.99"

    def get_available_providers(self) -> list[str]:
        return list(self.built_in)

    def get_all_providers(self) -> list[str]:
        return [*self.built_in, "QNNExecutionProvider", "WebGpuExecutionProvider"]

    def get_ep_devices(self) -> list[Any]:
        return list(self.plugin_devices) if self.registered else []

    def register_execution_provider_library(self, name: str, file: str) -> None:
        self.registered.append((name, file))


@dataclass
class Session:
    names: Sequence[str]

    def get_providers(self) -> list[str]:
        return list(self.names)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr(providers, "library", lambda: made)
    monkeypatch.setattr(providers, "_plugins", {})
    return made


def asked(*names: str, **options: Any) -> tuple[str, ...]:
    return providers.wanted(SessionOptions(providers=names, **options))


def test_short_names_mean_the_engines_and_the_processor_comes_last(engine: Engine) -> None:
    assert asked("cuda") == (CUDA, CPU)
    assert asked("cpu", "coreml", CUDA, "cuda") == ("CoreMLExecutionProvider", CUDA, CPU)
    assert asked("cpu") == (CPU,)


def test_unasked_the_first_accelerator_that_runs_decoders_whole(engine: Engine) -> None:
    assert asked() == (CUDA, CPU)
    assert asked(gpu_layers=0) == (CPU,)
    engine.built_in = ("CoreMLExecutionProvider", CPU)
    assert asked() == (CPU,)
    with pytest.raises(UsageError, match="no accelerator"):
        asked(gpu_layers=-1)


@pytest.mark.parametrize(
    ("name", "fact", "way_out"),
    [
        ("qnn", "This build of ONNX Runtime has no execution provider 'qnn'", "onnxruntime-qnn"),
        ("webgpu", "This build of ONNX Runtime has no", "pip install onnxruntime-ep-webgpu"),
        ("warp", "There is no execution provider 'warp'", "NAME=LIBRARY"),
    ],
)
def test_one_that_is_not_there(engine: Engine, name: str, fact: str, way_out: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked(name)
    assert caught.value.fact.startswith(fact)
    assert caught.value.cause == "It offers CUDA, CoreML, CPU."
    assert way_out in caught.value.way_out


def test_one_that_was_asked_for_and_runs_nothing_is_an_error(engine: Engine) -> None:
    here = (Placement(provider=CPU, nodes=42, share=1.0),)
    both = (
        Placement(provider=CUDA, nodes=40, share=0.952),
        Placement(provider=CPU, nodes=2, share=0.048),
    )
    options = SessionOptions(providers=("cuda",))
    providers.require_used(options, Session((CUDA, CPU)), both, "m.onnx")
    with pytest.raises(BackendError, match=r"CUDA runs nothing of m\.onnx\. It could not be load"):
        providers.require_used(options, Session((CPU,)), here, "m.onnx")
    with pytest.raises(BackendError, match="no kernel for any of its nodes"):
        providers.require_used(options, Session((CUDA, CPU)), here, "m.onnx")
    # Nobody asked: what was used is in the record, and nothing is wrong.
    providers.require_used(SessionOptions(), Session((CPU,)), here, "m.onnx")
    assert placement_words(both) == "CUDA 95 %, CPU 5 %"
    # Engines that do not tell have the session's own list.
    old = tuple(Placement(provider=p, nodes=0, share=0.0) for p in (CUDA, CPU))
    providers.require_used(options, Session((CUDA, CPU)), old, "m.onnx")
    assert placement_words(old) == "CUDA, CPU"


def test_a_plugin_is_registered_once_and_its_first_device_used(
    engine: Engine, tmp_path: Path
) -> None:
    file = tmp_path / "provider.so"
    file.write_bytes(b"")
    device = SimpleNamespace(ep_name="MineExecutionProvider")
    engine.plugin_devices = (device, SimpleNamespace(ep_name="MineExecutionProvider"))
    names = asked(f"mine={file}")
    assert asked(f"mine={file}") == names == ("mine", CPU)
    assert engine.registered == [("mine", str(file))]
    given: list[Any] = []
    settings = SimpleNamespace(add_provider_for_devices=lambda *what: given.append(what))
    assert providers.attach(settings, names) == []
    assert given == [([device], {})]
    placed = (Placement(provider="MineExecutionProvider", nodes=7, share=1.0),)
    options = SessionOptions(providers=(f"mine={file}",))
    providers.require_used(options, Session((device.ep_name, CPU)), placed, "m.onnx")
    with pytest.raises(UsageError, match="mine, CUDA cannot run in one session"):
        providers.attach(settings, asked(f"mine={file}", "cuda"))


def test_a_plugin_without_a_device_is_an_error(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "provider.so"
    file.write_bytes(b"")
    with pytest.raises(BackendError, match="mine finds no device"):
        providers.attach(SimpleNamespace(), asked(f"mine={file}"))


def test_a_package_of_a_plugin_is_found_by_its_name(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "onnxruntime_ep_webgpu"
    folder.mkdir()
    (folder / "lib.so").write_bytes(b"")
    (folder / "__init__.py").write_text(
        f"def get_library_path():\n    return {str(folder / 'lib.so')!r}\n", "utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert asked("webgpu") == ("webgpu", CPU)
    assert engine.registered == [("webgpu", str(folder / "lib.so"))]
