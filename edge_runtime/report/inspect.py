"""An `edge inspect` as a terminal page: what the model is, what it weighs, how it reads text.

Every text from the file passes `plain`: what is shown never moves a cursor.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..artifact import ModelShape
from ..basis import Unavailable
from ..units import format_bytes, format_count
from .inspection import (
    Conversion,
    FileFact,
    GraphFacts,
    Inspection,
    PortFact,
    TokenizerFacts,
)
from .plain import first_lines, plain, quoted

_SHOWN_FILES = 12
_SHOWN_METADATA = 60
_SHOWN_PORTS = 6
_SHOWN_OPERATORS = 10
_TEMPLATE_LINES = 4
_WIDTH = 76
_WHAT = {
    "model": "GGUF model",
    "checkpoint": "Hugging Face checkpoint",
    "vocabulary": "GGUF vocabulary, no weights",
    "imatrix": "importance matrix",
    "adapter": "GGUF adapter, no model",
    "projector": "GGUF projector, no language model",
}
_WITH_TEXT = ("model", "checkpoint", "vocabulary")


def render_inspection(inspection: Inspection, *, tensors: bool = False) -> RenderableType:
    """The whole page, within 80 columns; with `tensors` a row for each of them too."""
    parts: list[RenderableType] = [_grid(_about(inspection))]
    if isinstance(inspection.shape, ModelShape):
        parts += [_heading("Shape"), _grid(_shape(inspection.shape))]
    if inspection.tensors and inspection.kind != "imatrix":
        parts += [_heading("Weights"), _mix(inspection)]
    if inspection.graph is not None:
        parts += [_heading("Graph"), _grid(_graph(inspection.graph))]
    if inspection.memory:
        parts += [_heading("Memory"), _memory(inspection)]
    if isinstance(inspection.conversion, Conversion):
        parts += [_heading("As GGUF"), _sizes(inspection.conversion)]
    if inspection.kind in _WITH_TEXT and _reads_text(inspection):
        parts += [_heading("Text"), _grid(_text(inspection))]
    parts += [_heading("Files"), _files(inspection.files)]
    if isinstance(inspection.shape, Unavailable) and inspection.format == "GGUF":
        parts += [_heading("Metadata"), _metadata(inspection)]
    if tensors:
        parts += [_heading("Tensors"), _tensors(inspection)]
    return Group(*parts)


def checksum_lines(files: tuple[FileFact, ...]) -> Iterator[str]:
    """The lines that `sha256sum --check` reads, for the files whose hash is known."""
    for file in files:
        if file.sha256 is not None:
            yield f"{file.sha256}  {plain(file.name)}"


_Pairs = Iterator[tuple[str, str | Text]]


def _about(inspection: Inspection) -> _Pairs:
    yield "Name", plain(inspection.name, most=200)
    yield "What it is", "ONNX model" if inspection.graph else _WHAT[inspection.kind]
    yield "Architecture", plain(inspection.architecture, most=200)
    if isinstance(inspection.shape, Unavailable) and inspection.kind in ("model", "checkpoint"):
        yield "Shape", _unknown(inspection.shape)
    if inspection.kind == "imatrix":
        # GGUF keeps sums and counts apart, the older format does not.
        both = inspection.format == "GGUF"
        yield "Entries", str(len(inspection.tensors) // (2 if both else 1))
    elif inspection.tensors:
        words = f"{format_count(inspection.parameters)} ({inspection.parameters:,})"
        if inspection.active_parameters is not None:
            words += f", {format_count(inspection.active_parameters)} active for a token"
        yield "Parameters", words
        words = f"{plain(inspection.level)}, {inspection.bits_per_weight:.2f} bits per weight"
        yield "Stored as" if inspection.kind == "checkpoint" else "Level", words
    count = len(inspection.files)
    split = f" in {count} files" if count > 1 else ""
    yield "Size", f"{format_bytes(inspection.size_bytes)}{split}"
    if isinstance(inspection.conversion, Unavailable):
        yield "Convertible", _unknown(inspection.conversion, "no: ")
    elif inspection.conversion is not None:
        yield "Convertible", Text(f"yes, as {plain(inspection.conversion.family)}", style="green")
    for label, text in inspection.origin:
        yield label.capitalize(), plain(text, most=200)
    for note in inspection.notes:
        yield "Note", plain(note)


def _shape(shape: ModelShape) -> _Pairs:
    yield (
        "Layers",
        str(shape.layers)
        + (f" of {shape.layers_of_model}" if shape.layers_of_model != shape.layers else ""),
    )
    # A family that only its graph describes does not say how wide this is.
    forward = f", feed-forward {shape.intermediate}" if shape.intermediate else ""
    yield "Hidden", f"{shape.hidden}{forward}"
    yield "Heads", f"{shape.heads} of {shape.head_dim}, {shape.kv_heads} for keys and values"
    if shape.experts:
        words = f"{shape.experts_used} of {shape.experts}, {shape.expert_intermediate} wide"
        if shape.shared_expert_intermediate:
            words += f", and a shared one of {shape.shared_expert_intermediate}"
        yield "Experts", words
    yield (
        "Vocabulary",
        f"{shape.vocabulary_tokens} tokens"
        + (", embedding and output shared" if shape.tied_embeddings and not shape.encoder else ""),
    )
    yield "Context", f"{shape.context_tokens} tokens"
    if shape.sliding_window is not None and any(shape.sliding_layers):
        yield "Window", f"{shape.sliding_window} tokens in {sum(shape.sliding_layers)} layers"
    if shape.rope_theta is not None:
        yield (
            "Rotary base",
            f"{shape.rope_theta:.10g}"
            + (
                f", {shape.rope_theta_sliding:.10g} in windowed layers"
                if shape.rope_theta_sliding
                else ""
            ),
        )
    if shape.rope_scaling is not None:
        scaling = shape.rope_scaling
        factor = f" by {scaling.factor:g}" if scaling.factor is not None else ""
        original = shape.original_context_tokens
        beyond = f", trained on {original} tokens first" if original else ""
        yield "Rotary scaling", f"{plain(scaling.kind)}{factor}{beyond}"


def _mix(inspection: Inspection) -> Table:
    table = _table("type", "tensors", "parameters", "size", "share")
    total = inspection.weight_bytes or 1
    for row in inspection.mix:
        table.add_row(
            row.type,
            str(row.tensors),
            format_count(row.elements),
            format_bytes(row.size_bytes),
            f"{100 * row.size_bytes / total:.1f} %",
        )
    return table


def _memory(inspection: Inspection) -> RenderableType:
    table = _table("context", "weights", f"KV cache, {inspection.cache_type}", "together")
    longest = 0
    if isinstance(inspection.shape, ModelShape):
        longest = inspection.shape.context_tokens
    for row in inspection.memory:
        mark = " *" if row.context_tokens > longest else ""
        table.add_row(
            f"{row.context_tokens}{mark}",
            format_bytes(row.weight_bytes),
            format_bytes(row.kv_bytes),
            format_bytes(row.weight_bytes + row.kv_bytes),
        )
    notes = [Text("Compute buffers and the process itself come on top.", style="dim")]
    if any(row.context_tokens > longest for row in inspection.memory):
        notes.append(Text("* longer than the model was made for", style="dim"))
    return Group(table, *notes)


def _graph(graph: GraphFacts) -> _Pairs:
    if graph.producer:
        yield "Made by", plain(graph.producer, most=200)
    yield (
        "Operator sets",
        ", ".join(f"{plain(domain, most=60)} {version}" for domain, version in graph.opsets[:8]),
    )
    for label, ports in (("Inputs", graph.inputs), ("Outputs", graph.outputs)):
        lines = [_port(port) for port in ports[:_SHOWN_PORTS]]
        if len(ports) > _SHOWN_PORTS:
            lines.append(f"and {len(ports) - _SHOWN_PORTS} more: --json")
        yield label, "\n".join(lines) or "none"
    shown = [f"{count} {plain(name, most=60)}" for name, count in graph.operators]
    rest = len(shown) - _SHOWN_OPERATORS
    words = ", ".join(shown[:_SHOWN_OPERATORS])
    yield "Operators", words + (f", and {rest} other kinds" if rest > 0 else "")


def _port(port: PortFact) -> str:
    dims = ", ".join("?" if dim is None else str(dim) for dim in port.dims)
    return plain(f"{port.name}  {port.type} [{dims}]", most=200)


def _reads_text(inspection: Inspection) -> bool:
    """All but a graph that is no language model."""
    return inspection.graph is None or isinstance(inspection.shape, ModelShape)


def _sizes(conversion: Conversion) -> Table:
    table = _table(*(level for level, _ in conversion.sizes))
    table.columns[0].justify = "right"
    table.add_row(*(format_bytes(size) for _, size in conversion.sizes))
    return table


def _text(inspection: Inspection) -> _Pairs:
    facts = inspection.tokenizer
    if isinstance(facts, Unavailable):
        yield "Tokenizer", _unknown(facts)
    else:
        yield from _tokenizer(facts)
    template = inspection.chat_template
    if template is None:
        yield "Chat template", "none"
        return
    shown = first_lines(template, lines=_TEMPLATE_LINES, width=_WIDTH - 18)
    words = Text(f"yes, {len(template)} characters\n")
    words.append("\n".join(shown), style="dim")
    yield "Chat template", words


def _tokenizer(facts: TokenizerFacts) -> _Pairs:
    words = plain(facts.model, most=60)
    if facts.pre is not None:
        words += f", pre-tokenizer {plain(facts.pre, most=60)}"
    yield "Tokenizer", words
    yield (
        "Tokens",
        str(facts.tokens) + (f", {facts.merges} merges" if facts.merges is not None else ""),
    )
    for token in facts.special:
        text = "not in the vocabulary" if token.text is None else quoted(token.text, most=40)
        yield f"  {token.role}", f"{token.id} {text}"
    for added, role in ((facts.add_bos, "begin"), (facts.add_eos, "end")):
        if added is not None:
            yield f"  adds {role}", "yes" if added else "no"


def _files(files: tuple[FileFact, ...]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for file in files[:_SHOWN_FILES]:
        table.add_row(format_bytes(file.size_bytes), Text(plain(file.name)))
    if len(files) > _SHOWN_FILES:
        table.add_row("...", f"and {len(files) - _SHOWN_FILES} more")
    return table


def _metadata(inspection: Inspection) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for key, value in list(inspection.metadata.items())[:_SHOWN_METADATA]:
        if isinstance(value, dict):
            words = f"{value['count']} values, {value['type']}"
        else:
            words = quoted(value, most=60) if isinstance(value, str) else plain(str(value), most=60)
        table.add_row(Text(plain(key, most=60)), Text(words))
    if len(inspection.metadata) > _SHOWN_METADATA:
        table.add_row("...", f"and {len(inspection.metadata) - _SHOWN_METADATA} more: --json")
    return table


def _tensors(inspection: Inspection) -> Table:
    table = _table("tensor", "type", "dims", "size")
    table.columns[0].overflow = "fold"
    table.columns[0].no_wrap = False
    for tensor in inspection.tensors:
        dims = " x ".join(map(str, tensor.dims))
        name = Text(plain(tensor.name))
        table.add_row(name, tensor.type, dims, format_bytes(tensor.size_bytes))
    return table


def _grid(pairs: _Pairs) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True, min_width=16)
    grid.add_column(overflow="fold")
    for label, words in pairs:
        grid.add_row(Text(label), words if isinstance(words, Text) else Text(words))
    return grid


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _unknown(missing: Unavailable, before: str = "") -> Text:
    words = Text(before + plain(missing.reason), style="yellow")
    if missing.remedy:
        words.append(f"\n-> {plain(missing.remedy)}", style="dim")
    return words
