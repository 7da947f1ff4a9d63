"""Records of a comparison built by hand: rounds of rates, scores on a text, answers, failures.

The numbers are drawn from a seeded generator, so that anybody can work out again what must come of
them. `several_levels` is one whole comparison: F16 and three levels below it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace

from edge_runtime.measurement import (
    ArtifactRecord,
    CellFailure,
    Engine,
    Measurement,
    Run,
    SessionOptions,
    Workload,
    decode_workload,
    prefill_workload,
)
from edge_runtime.saved import SavedRecord
from edge_runtime.scores import (
    Answer,
    Answers,
    Divergence,
    LevelFailure,
    ReferenceRecord,
    Samples,
    Scores,
    TextRecord,
)
from tests.records import measurement

CREATED = "2026-01-01T00:00:00+00:00"
ENGINE = Engine(name="llama.cpp", version="1")
MIB = 1024**2
PARAMETERS = 100_000_000
BITS = {"F16": 16.0, "Q8_0": 8.5, "Q6_K": 6.56, "Q4_K_M": 4.85, "Q4_0": 4.55, "Q2_K": 2.96}
"""About what a level takes for a weight: the sizes of these records follow from it."""
ASKED = SessionOptions(threads=2)
PP512, TG128 = prefill_workload(512), decode_workload(128)


def artifact(level: str = "Q4_K_M", *, imatrix: bool = False, **changes: object) -> ArtifactRecord:
    """One level of a made-up model of 100M parameters; the fingerprint follows from the name."""
    name = f"model-{level}{'-imatrix' if imatrix else ''}.gguf"
    size = int(PARAMETERS * BITS.get(level, 8.0) / 8)
    found = ArtifactRecord(
        name="model", file=name, fingerprint=hashlib.sha256(name.encode()).hexdigest(),
        format="gguf", architecture="llama", level=level, parameters=PARAMETERS, layers=2,
        layers_of_model=2, size_bytes=size, decode_bytes=size, synthetic=False, imatrix=imatrix,
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]


def onnx_artifact(level: str = "int4", **changes: object) -> ArtifactRecord:
    """The same model as an ONNX graph."""
    found = artifact(level, file=f"model-{level}.onnx", format="onnx")
    return replace(found, fingerprint=hashlib.sha256(found.file.encode()).hexdigest(), **changes)  # type: ignore[arg-type]


def round_of(
    of: ArtifactRecord,
    workload: Workload,
    rates: Sequence[float],
    *,
    number: int | None = 0,
    flags: tuple[str, ...] = (),
    **changes: object,
) -> Measurement:
    """One child's measurement in round `number`: a repetition of `ppN` or `tgN` for each rate."""
    made = measurement(
        tuple(_run(workload, rate) for rate in rates),
        workload=workload, flags=flags, model_bytes=of.size_bytes,
    )  # fmt: skip
    made = replace(made, artifact=of, round=number, requested=ASKED)
    return replace(made, **changes)  # type: ignore[arg-type]


def _run(workload: Workload, rate: float) -> Run:
    start, ns = 1000, 1e9 / rate
    begun = start + round(workload.prompt_tokens * ns) if workload.prompt_tokens else None
    first = start if begun is None else begun
    steps = workload.generate_tokens
    return Run(
        started_ns=start,
        prefilled_ns=begun,
        prefill_tokens=workload.prompt_tokens,
        token_ns=tuple(first + round(ns * (i + 1)) for i in range(steps)),
    )


def rounds(
    of: ArtifactRecord,
    *,
    tg: Sequence[float] = (),
    pp: Sequence[float] = (),
    flags: tuple[str, ...] = (),
) -> tuple[Measurement, ...]:
    """A measurement for each round's rate: the round's number is its place."""
    return tuple(
        round_of(of, workload, (rate,), number=number, flags=flags)
        for workload, rates in ((PP512, pp), (TG128, tg))
        for number, rate in enumerate(rates)
    )


def kept_up(
    of: ArtifactRecord, workload: Workload, burst: float, steady: float, **changes: object
) -> Measurement:
    """A run of 90 repetitions that was kept up: a third at one rate, the rest at another."""
    begun, runs = 1000, []
    for rate in [burst] * 30 + [steady] * 60:
        made = _run(workload, rate)
        late = begun - made.started_ns
        runs.append(
            replace(
                made,
                started_ns=begun,
                prefilled_ns=None if made.prefilled_ns is None else made.prefilled_ns + late,
                token_ns=tuple(stamp + late for stamp in made.token_ns),
            )
        )
        begun = (runs[-1].token_ns or (runs[-1].prefilled_ns,))[-1]
    record = replace(round_of(of, workload, (1.0,), number=None, **changes), runs=tuple(runs))
    return replace(record, sustain_s=600.0)


def text(scored: int = 510, **changes: object) -> TextRecord:
    """A text of two passages of 512 tokens, unless the count says otherwise."""
    found = TextRecord(
        kind="text", name="evaluation.txt", sha256="a" * 64, tokens_sha256="b" * 64, shipped=False,
        size_bytes=4096, context_tokens=512, passages=2, tokens=1024, scored_tokens=scored,
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]


def reference_of(of: ArtifactRecord, **changes: object) -> ReferenceRecord:
    """A compact reference of an artifact."""
    found = ReferenceRecord(
        artifact=of, engine=ENGINE, vocabulary_tokens=32_000, top=224, drawn=32, size_bytes=1 << 20,
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]


def scores(
    of: ArtifactRecord,
    *,
    nll: Sequence[float],
    kl: Sequence[float] | None = None,
    reference_nll: Sequence[float] = (),
    reference: ArtifactRecord | None = None,
    agrees: Sequence[float] = (),
    p_change: Sequence[float] = (),
    on: TextRecord | None = None,
    **changes: object,
) -> Scores:
    """Scores of given numbers; with `kl` against a reference, whose other numbers have defaults."""
    divergence = None
    if kl is not None:
        divergence = Divergence(
            kl=Samples.of(kl),
            kl_least=Samples.of(0.9 * x for x in kl),
            agrees=Samples.of(agrees or [1.0] * len(kl)),
            p_change=Samples.of(p_change or [0.0] * len(kl)),
            reference_nll=Samples.of(reference_nll or nll),
        )
    made = Scores(
        created=CREATED, tool_version="0", artifact=of, engine=ENGINE,
        options=SessionOptions(context_tokens=512, threads=2), text=on or text(len(nll)),
        nll=Samples.of(nll), duration_s=1.0, divergence=divergence,
        reference=None if kl is None else reference_of(reference or artifact("F16")),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def drawn_scores(
    of: ArtifactRecord,
    loss: float | None,
    *,
    tokens: int = 510,
    seed: int = 1,
    own: int = 0,
    reference: ArtifactRecord | None = None,
    on: TextRecord | None = None,
    **changes: object,
) -> Scores:
    """Scores of about `loss` nats of mean KL; None: the reference itself.

    The same seed gives the same text: its hard tokens are hard for every level, as they are of real
    models. `own` makes a level's own part another one.
    """
    common = random.Random(seed)
    true = [common.expovariate(0.6) for _ in range(tokens)]
    weight = [common.lognormvariate(-0.5, 1.0) for _ in range(tokens)]
    if loss is None:
        return scores(of, nll=true, on=on, **changes)
    drawn = random.Random(f"{seed} {own} {loss}")
    kl = [loss * w * drawn.uniform(0.8, 1.2) for w in weight]
    change = [drawn.gauss(0.0, 1.0) * (2 * k) ** 0.5 for k in kl]
    return scores(
        of, kl=kl, reference=reference, on=on, reference_nll=true,
        nll=[max(0.0, t + k / 2 + c * 0.3) for t, k, c in zip(true, kl, change, strict=True)],
        agrees=[float(drawn.random() > min(0.9, 2 * k**0.5)) for k in kl],
        p_change=[max(-1.0, min(1.0, -0.1 * c)) for c in change],
        **changes,
    )  # fmt: skip


def answers(of: ArtifactRecord, texts: Sequence[str], **changes: object) -> Answers:
    """Greedy answers; an answer's tokens are its characters."""
    made = Answers(
        created=CREATED, tool_version="0", artifact=of, engine=ENGINE,
        options=SessionOptions(context_tokens=512, threads=2), prompts_sha256="c" * 64,
        tokens_sha256="d" * 64, most_tokens=64,
        answers=tuple(
            Answer(prompt=f"Question {i}?", text=said, tokens=tuple(map(ord, said)), finish="eos")
            for i, said in enumerate(texts, start=1)
        ),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def level_failure(label: str = "IQ2_XXS", **changes: object) -> LevelFailure:
    """A level that could not be made."""
    made = LevelFailure(
        created=CREATED, tool_version="0", task="make", label=label, error="UnsupportedError",
        fact=f"{label} needs an importance matrix.", cause="So few bits are spent by it.",
        way_out="Give --calibrate TEXT.",
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def cell_failure(of: ArtifactRecord, workload: Workload = TG128, **changes: object) -> CellFailure:
    """A workload that could not be measured."""
    made = CellFailure(
        created=CREATED, tool_version="0", artifact=of,
        requested=ASKED, workload=workload,
        error="WorkerError", fact="The measuring process died.", cause="Signal 11.",
        way_out="Try another level.", round=0,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


LOSSES = {"F16": None, "Q8_0": 0.002, "Q4_K_M": 0.03, "Q2_K": 0.4}
SPEEDS = {"F16": 12.0, "Q8_0": 22.0, "Q4_K_M": 34.0, "Q2_K": 30.0}
DRIFT = (1.0, 0.97, 1.02, 0.9, 1.01)
"""What each round's machine is worth: the same for every level in it."""


def several_levels(
    *,
    speeds: dict[str, float] | None = None,
    losses: dict[str, float | None] | None = None,
    seed: int = 1,
) -> tuple[SavedRecord, ...]:
    """One comparison: rounds of pp512 and tg128, scores, and answers to two prompts each."""
    found: list[SavedRecord] = []
    noise = random.Random(seed)
    for level, speed in (speeds or SPEEDS).items():
        of = artifact(level)
        tg = [speed * d * noise.uniform(0.995, 1.005) for d in DRIFT]
        found += rounds(of, tg=tg, pp=[8 * rate for rate in tg])
    for level, loss in (losses or LOSSES).items():
        found.append(drawn_scores(artifact(level), loss))
        said = ("Paris.", "Seven.") if (loss or 0) < 0.1 else ("Paris.", "Six or so.")
        found.append(answers(artifact(level), said))
    return tuple(found)
