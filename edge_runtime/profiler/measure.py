"""One measurement: a fresh child process, its answer, and the record made of both.

`child` runs the child, `watch` what its parent observes of the machine meanwhile.
"""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import replace

from ..artifact import Artifact
from ..errors import EdgeError, UsageError
from ..measurement import ArtifactRecord, Limits, Measurement, SessionOptions, Workload
from .child import Advice, Child
from .host import detect_host
from .limits import Confinement
from .wire import Listener, Outcome, Plan, Spec

_ADVICE = Advice(
    slow="Measure fewer tokens, or allow more time.",
    memory="Choose a smaller level or a shorter context, or free memory.",
    reinstall="The engine was built for another processor: reinstall llama-cpp-python from source.",
)


def measure(
    artifact: Artifact,
    workload: Workload,
    options: SessionOptions | None = None,
    *,
    plan: Plan | None = None,
    limits: Limits | None = None,
    stated_power_w: float | None = None,
    on_event: Listener | None = None,
) -> Measurement:
    """Measures one workload on one artifact in a fresh child process.

    The context length defaults to exactly what the workload fills, as llama-bench does. `limits`
    emulate a smaller device. `stated_power_w` is kept for an estimate of energy where nothing
    measures it. `on_event` is called between timed runs, never during one; when it returns True no
    further run is begun. Raises UsageError when the workload cannot be run under the options,
    WorkerError when the child dies or takes too long, and whatever the backend raised.
    """
    # The child imports this package too, and has no use for what watches it.
    from .watch import Watch

    plan = plan or Plan()
    asked = options or SessionOptions()
    # Before the child exists: its memory must not count as taken.
    host = detect_host()
    with (
        Confinement(limits, artifact, asked, host) as confinement,
        Watch(plan, limits=confinement.limits, on_event=on_event) as watch,
    ):
        spec = Spec(
            artifact=str(artifact.path.absolute()),
            options=fitted_options(workload, confinement.options),
            workload=workload,
            plan=plan,
            parent_pid=os.getpid(),
            least_run_s=watch.least_run_s,
            limits=confinement.limits,
        )
        child = Child(
            spec, workload.name, _ADVICE, timeout_s=watch.timeout_s, on_event=watch.on_event,
            confined_by=confinement.command, on_start=watch.on_start,
        )  # fmt: skip
        try:
            outcome = child.answer(Outcome)
        except EdgeError as error:
            told = confinement.explained(error)
            if told is error:
                raise
            raise told from error
    return Measurement(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        tool_version=tool_version(),
        host=replace(confinement.host, gpus=outcome.gpus),
        engine=outcome.engine,
        artifact=artifact_record(artifact),
        options=outcome.options,
        requested=asked,
        workload=workload,
        load=outcome.load,
        warmups=outcome.warmups,
        runs=outcome.runs,
        stopped=outcome.stopped,
        memory=watch.memory(outcome.memory, outcome.gpus),
        energy=watch.energy(),
        heat=watch.heat(),
        refusals=watch.refusals,
        battery=watch.battery,
        timeline=watch.timeline(outcome.windows),
        stated_power_w=stated_power_w,
        sustain_s=_sustained_s(plan, outcome),
        noise=outcome.noise,
        emulated=confinement.emulation,
        notes=(*confinement.notes, *outcome.notes),
    )


def _sustained_s(plan: Plan, outcome: Outcome) -> float | None:
    """How long the repetitions were kept up on purpose: less than asked when ended early."""
    if plan.sustain_s is None:
        return None
    lasted = next((w.duration_s for w in outcome.windows if w.name == "runs"), plan.sustain_s)
    return min(plan.sustain_s, lasted)


def artifact_record(artifact: Artifact) -> ArtifactRecord:
    """What a measurement keeps of an artifact: no absolute path, for records travel."""
    shape = artifact.shape
    return ArtifactRecord(
        name=artifact.name,
        file=artifact.path.name,
        fingerprint=artifact.fingerprint,
        format=artifact.format,
        architecture=shape.architecture,
        level=artifact.level,
        parameters=artifact.parameters,
        layers=shape.layers,
        layers_of_model=artifact.layers_of_model,
        size_bytes=artifact.size_bytes,
        decode_bytes=artifact.decode_bytes,
        synthetic=artifact.synthetic,
        imatrix=artifact.imatrix,
    )


def fitted_options(workload: Workload, options: SessionOptions) -> SessionOptions:
    """The options with a context of exactly the workload's tokens, unless one was asked for.

    Raises UsageError when the workload is empty, or does not fit the context asked for.
    """
    if workload.prompt_tokens + workload.generate_tokens < 1 or min(
        workload.prompt_tokens, workload.generate_tokens, workload.depth_tokens
    ) < 0:  # fmt: skip
        raise UsageError(
            f"The workload {workload.name!r} runs no tokens.",
            way_out="Give it prompt tokens, tokens to generate, or both.",
        )
    if workload.protocol == "chat":
        if workload.depth_tokens:
            raise UsageError(
                f"The chat-like workload {workload.name!r} cannot start at a depth.",
                way_out="Give it a longer prompt, or use llama-bench's protocol: -n 128 -d 4096",
            )
        if not (workload.prompt_tokens and workload.generate_tokens):
            raise UsageError(f"The chat-like workload {workload.name!r} needs a prompt and output.")
    if options.context_tokens is None:
        return replace(options, context_tokens=workload.total_tokens)
    if options.context_tokens < workload.total_tokens:
        raise UsageError(
            f"{workload.name} fills {workload.total_tokens} tokens, the context has"
            f" {options.context_tokens}.",
            way_out="Ask for a larger context, or leave it out.",
        )
    return options


def tool_version() -> str:
    """The version of this package, as records carry it."""
    from .. import __version__

    return __version__
