"""The ways a device offers to run an engine: which accelerators, through which APIs.

From the profile's own APIs and the engines' names. What is fastest is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from profiles.devices import DeviceProfile

from ..errors import UsageError
from .coefficients import DECODE, Coefficients, Support
from .supply import APIS, CPU, KINDS, LLAMA_CPP, ONNX_RUNTIME, Route

MAKERS_OWN = ("cuda", "metal")
CLASS_GROUPS: Mapping[str, str] = {
    "mobile": "pocket", "sbc": "pocket", "laptop": "desk", "desktop": "desk",
    "gpu": "card", "server": "card",
}  # fmt: skip
"""Classes of devices whose accelerators and drivers are alike."""


def known_engines(coefficients: Coefficients) -> tuple[str, ...]:
    """The engines that can be projected: those with published rows, and ONNX Runtime."""
    found = {
        path.split("/")[1]
        for kind in KINDS
        for path in coefficients.model(DECODE, kind).support
        if _is_path(path)
    }
    return (LLAMA_CPP, ONNX_RUNTIME, *sorted(found - {LLAMA_CPP, ONNX_RUNTIME}))


def routes_of(
    device: DeviceProfile,
    engine: str,
    coefficients: Coefficients,
    *,
    accelerator: str | None,
    api: str | None,
) -> tuple[Route, ...]:
    """Every way the device offers to run an engine; at least one.

    Raises UsageError for an engine that is not known, and for an accelerator or API that the device
    has not, naming those it has.
    """
    known = known_engines(coefficients)
    if engine not in known:
        raise UsageError(
            f"Nothing is known of the engine {engine!r}.", way_out=f"Known: {', '.join(known)}."
        )
    offered = tuple(_offered(device, engine, coefficients))
    if not offered:
        raise UsageError(
            f"{device.label} has nothing that {engine} is known to run on.",
            cause=f"Its profile lists {_listed(device)}.",
        )
    wanted = tuple(
        route
        for route in offered
        if accelerator in (None, route.kind) and api in (None, "", route.api or route.kind)
    )
    if not wanted:
        asked = " through ".join(filter(None, (accelerator, api)))
        raise UsageError(
            f"{engine} does not run on {device.label} with {asked}.",
            way_out=f"It has {', '.join(dict.fromkeys(_described(r) for r in offered))}.",
        )
    return wanted


def usual_routes(
    device: DeviceProfile, routes: tuple[Route, ...], coefficients: Coefficients
) -> tuple[Route, ...]:
    """The ways to choose from where nobody chose: those that people use on such devices.

    The device's own with published rows; else those with rows on devices of a like class, and of
    the same maker where the API serves many; else the processor. What desktop cards do through an
    API says little of a phone's graphics part. Where an accelerator has the API of its own maker,
    no other of it is taken.
    """
    support = {kind: coefficients.model(DECODE, kind).support for kind in KINDS}
    near = tuple(r for r in routes if crowd_of(r, device.device_class) in support[r.kind])
    found = near or tuple(r for r in routes if r.kind == CPU) or routes
    own = {route.kind for route in found if route.api in MAKERS_OWN}
    return tuple(route for route in found if route.kind not in own or route.api in MAKERS_OWN)


def crowd_of(route: Route, device_class: str) -> str:
    """The name under which rows of like devices on a route are counted."""
    maker = route.hardware if route.kind != CPU else ""
    return f"{route.path}@{CLASS_GROUPS[device_class]}{'/' * bool(maker)}{maker}"


def is_afar(route: Route, device_class: str, support: Mapping[str, Support]) -> bool:
    """Whether rows on the route are of unlike devices only, or there are none.

    An API of the accelerators' own maker is the same engine on all of them: its rows are near.
    """
    near = route.path if route.api in MAKERS_OWN else crowd_of(route, device_class)
    return near not in support


def _offered(device: DeviceProfile, engine: str, coefficients: Coefficients) -> Iterable[Route]:
    for kind in KINDS:
        unit = device.accelerators.get(kind)
        if unit is None:
            continue
        if kind == CPU:
            if engine in (LLAMA_CPP, ONNX_RUNTIME) or _published(coefficients, kind, engine):
                yield Route.on(device, kind, engine, "")
        elif engine == LLAMA_CPP:
            for name in APIS:
                if name in unit.apis:
                    yield Route.on(device, kind, engine, name)
        else:
            for name in _published(coefficients, kind, engine):
                if name in unit.apis or not name:
                    yield Route.on(device, kind, engine, name)


def _published(coefficients: Coefficients, kind: str, engine: str) -> tuple[str, ...]:
    """The APIs of an engine on a kind of accelerator that there are published rows of."""
    support = coefficients.model(DECODE, kind).support
    stem = f"{kind}/{engine}"
    return tuple(
        path[len(stem) :].lstrip("/")
        for path in support
        if _is_path(path) and (path == stem or path.startswith(f"{stem}/"))
    )


def _is_path(name: str) -> bool:
    """Whether a name under `support` is a path alone, of no family and no class."""
    return ":" not in name and "@" not in name


def _listed(device: DeviceProfile) -> str:
    units = (
        f"{kind} ({', '.join(unit.apis)})" if unit.apis else kind
        for kind, unit in device.accelerators.items()
    )
    return ", ".join(units) or "no accelerator"


def _described(route: Route) -> str:
    return f"{route.kind} through {route.api}" if route.api else route.kind
