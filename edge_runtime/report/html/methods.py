"""How each number was obtained: machine, engine, protocol, text, sensors, and what disturbed it.

Every line is worked out from the records themselves; nothing is said of what they do not hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...comparison.rows import Comparison
from ...latency import LatencyMeasurement
from ...measurement import Host, Measurement, SessionOptions
from ...memory import Memory
from ...saved import SavedRecord
from ...scores import Answers, LevelFailure, Scores, TextRecord
from ...units import format_bytes, format_count
from ...verdict import Target
from ..comparison_words import common_flags
from ..emulated import record_emulated_words
from ..energy import energy_words, has_figures
from ..placement import placement_words
from ..plain import plain
from .overview import engines, host_words

_PROTOCOLS = {
    "bench": "llama-bench's protocol: random tokens, no sampling, the cache emptied between runs",
    "chat": "through the real tokenizer and sampler",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How one kind of number came about: its name and some sentences."""

    name: str
    lines: tuple[str, ...]


def methods(comparison: Comparison) -> tuple[Method, ...]:
    """What the numbers of a comparison rest on, kind by kind."""
    measured = [record for record in comparison.records if isinstance(record, Measurement)]
    found = (
        ("Machine", _machine(measured)),
        ("Engine", _engine(comparison.records, measured)),
        ("Speed", _speed(measured)),
        ("First token", _first_token(measured)),
        ("Quality", _quality(comparison)),
        ("Answers", _answers(comparison.records)),
        ("Memory", _memory(measured)),
        ("Energy", _energy(measured)),
        ("Verdict", _verdict(comparison.target, comparison.memory_bytes)),
        ("Disturbances", disturbances(measured)),
        ("Records", _records(comparison.records)),
    )
    return _spoken(found)


def latency_methods(records: Sequence[LatencyMeasurement]) -> tuple[Method, ...]:
    """What the latencies of models that generate no text rest on."""
    hosts = _once(host_words(record.host) for record in records)
    engine = _once(f"{record.engine.name} {record.engine.version}" for record in records)
    rounds = _once(
        f"{len(record.latencies_ns):,} inferences of {record.model.name} in"
        f" {_many(len(record.rounds), 'round')}, after {_many(record.warmups, 'warm-up')};"
        f" {record.stopped}"
        for record in records
    )
    interval = "Percentiles have distribution-free 95 % intervals by order statistics."
    found = (
        ("Machine", hosts),
        ("Engine", engine),
        ("Latency", [*rounds, interval] if rounds else []),
        ("Disturbances", disturbances(records)),
    )
    return _spoken(found)


def disturbances(measured: Sequence[Measurement | LatencyMeasurement]) -> list[str]:
    """What else went on meanwhile, and in how many measurements."""
    if not measured:
        return []
    many = sum(record.noise.disturbed for record in measured)
    if not many:
        return [f"None was seen in {_many(len(measured), 'measurement')}."]
    head = (
        f"{many} of {_many(len(measured), 'measurement')} {'was' if many == 1 else 'were'}"
        " disturbed. The interval of a level is twice as wide where half of its rounds were."
    )
    return [
        head,
        *(
            f"{count} times, such as: {flag}" if count > 1 else flag
            for count, flag in common_flags(measured)
        ),
    ]


def _spoken(found: Iterable[tuple[str, Sequence[str]]]) -> tuple[Method, ...]:
    return tuple(
        Method(name=name, lines=tuple(plain(line) for line in lines))
        for name, lines in found
        if lines
    )


def _once(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _machine(measured: Sequence[Measurement]) -> list[str]:
    hosts: dict[tuple[object, ...], Host] = {}
    for record in measured:
        host = record.host
        hosts.setdefault((host.cpu, host.system, host.machine, host.ram_bytes), host)
    lines = []
    for host in hosts.values():
        words = f"{host_words(host)} {host.release}, {host.machine}"
        more = (
            f"{host.cores_physical} physical cores" if host.cores_physical else "",
            ", ".join(host.isa),
            host.virtualization or "",
            "; ".join(gpu.name for gpu in host.gpus),
        )
        lines += [words, *filter(None, more)]
    return lines + _once(filter(None, map(record_emulated_words, measured)))


def _engine(records: Sequence[SavedRecord], measured: Sequence[Measurement]) -> list[str]:
    lines = []
    for engine in engines(tuple(records)):
        build = f" ({plain(engine.build, most=160)})" if engine.build else ""
        lines.append(f"{engine.name} {engine.version}{build}")
    lines += _once(f"nodes: {placement_words(r.engine.placement)}" for r in measured
                   if len(r.engine.placement) > 1)  # fmt: skip
    return lines + _once(_options_words(record.options) for record in measured)


def _options_words(options: SessionOptions) -> str:
    words = ["engine's threads" if options.threads is None else _many(options.threads, "thread")]
    words.append(f"KV cache {options.kv_type_k}/{options.kv_type_v}")
    words.append(f"flash attention {options.flash_attention}")
    if options.gpu_layers:
        words.append(f"{options.gpu_layers} layers on the GPU")
    if options.providers:
        words.append(", ".join(options.providers))
    return f"{options.backend}: {', '.join(words)}"


def _speed(measured: Sequence[Measurement]) -> list[str]:
    lines = []
    for name in _once(record.workload.name for record in measured):
        of = [record for record in measured if record.workload.name == name]
        runs = sum(len(record.runs) for record in of)
        rounds = {record.round for record in of if record.round is not None}
        words = f"{name}: {_PROTOCOLS[of[0].workload.protocol]}; {_many(runs, 'repetition')}"
        if rounds:
            words += f" in {_many(len(rounds), 'round')}, each measurement in a process of its own"
        words += f", after {_many(of[0].warmups, 'warm-up')}."
        lines.append(words)
    if any(record.round is not None for record in measured):
        lines.append(
            "In a round every level is measured once, so that drift of the machine meets all alike."
            " Ratios are formed within rounds; intervals are Student's t on logarithms over"
            " rounds, at 95 %."
        )
    elif lines:
        lines.append("Intervals are Student's t on logarithms over repetitions, at 95 %.")
    return lines


def _first_token(measured: Sequence[Measurement]) -> list[str]:
    if not any(record.prefill_samples for record in measured):
        return []
    return ["From the start of the prompt until its logits were there; loading is left out."]


def _quality(comparison: Comparison) -> list[str]:
    scored = [record for record in comparison.records if isinstance(record, Scores)]
    if not scored:
        return []
    lines = _once(_text_words(record.text) for record in scored)
    references = _once(
        f"Held against {record.reference.artifact.file or record.reference.artifact.name}: of each"
        " distribution "
        + (
            "every probability was kept."
            if record.reference.exact
            else f"the {record.reference.top} most likely tokens of"
            f" {record.reference.vocabulary_tokens:,} were kept, and {record.reference.drawn} drawn"
            " from the rest; the divergence is an estimate without bias"
            f" ({format_bytes(record.reference.size_bytes)})."
        )
        for record in scored
        if record.reference is not None
    )
    lines += references
    lines.append(
        "Loss is the mean of KL(reference || level) over tokens. What stands behind ± is the"
        " standard error; tokens are taken as independent."
    )
    return lines + _once(note for record in scored for note in record.notes)


def _text_words(text: TextRecord) -> str:
    kind = "text" if text.kind == "text" else "prompts with their answers"
    words = (
        f"{text.name} ({kind}, {format_bytes(text.size_bytes)}, sha256 {text.sha256[:12]}):"
        f" {_many(text.passages, 'passage')} of up to {text.context_tokens} tokens,"
        f" {text.scored_tokens:,} of {text.tokens:,} tokens scored."
    )
    if text.kind == "text":
        words += " As llama-perplexity does, the second half of each passage is scored."
    if text.shipped:
        words += (
            " It is the small text that comes with edge-runtime: judge a model on a text of your"
            " own before you rely on it."
        )
    return words


def _answers(records: Sequence[SavedRecord]) -> list[str]:
    return _once(
        f"Greedy, at most {record.most_tokens} tokens, {_many(len(record.answers), 'prompt')}."
        for record in records
        if isinstance(record, Answers)
    )


def _memory(measured: Sequence[Measurement]) -> list[str]:
    lines = _once(
        record.memory.method
        if isinstance(record.memory, Memory)
        else f"unavailable: {record.memory.reason}"
        for record in measured
    )
    if any(isinstance(record.memory, Memory) for record in measured):
        lines.append(
            "Needed is what the weights, the cache at the target's context, the buffers and the"
            " process take together."
        )
    return lines


def _energy(measured: Sequence[Measurement]) -> list[str]:
    known = [record for record in measured if has_figures(record)]
    if not known:
        return _once(energy_words(record) for record in measured)[:3]
    return _once(
        f"{record.artifact.level}, {record.workload.name}: {energy_words(record)}"
        for record in known
    )


def _verdict(target: Target, memory_bytes: int | None) -> list[str]:
    viable = (
        f"Viable is what reads at {target.decode_tokens_per_s:g} tok/s or more ({target.name}), by"
        " the lower end of its interval, and fits the memory with a context of"
        f" {target.context_tokens:,} tokens."
    )
    lines = [viable]
    if target.source:
        lines.append(f"The rate: {target.source}.")
    if memory_bytes is not None:
        lines.append(f"A recommended level needs {format_bytes(memory_bytes)} at most.")
    lines.append(
        "Pareto: no other level is at least as good in loss, speed and memory, and better in one,"
        " beyond the noise."
    )
    return lines


def _records(records: Sequence[SavedRecord]) -> list[str]:
    kinds = Counter(_record_kind(record) for record in records)
    dates = sorted(record.created for record in records)
    versions = _once(record.tool_version for record in records)
    words = ", ".join(f"{format_count(count)} {kind}" for kind, count in kinds.items())
    return [f"{words}; {dates[0][:19]} to {dates[-1][:19]}; edge-runtime {', '.join(versions)}."]


def _record_kind(record: SavedRecord) -> str:
    if isinstance(record, Scores):
        return "scores"
    if isinstance(record, Answers):
        return "sets of answers"
    if isinstance(record, LevelFailure) or not isinstance(record, Measurement):
        return "failures"
    return "measurements"
