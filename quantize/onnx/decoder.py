"""The graph of a decoder of any family known here: embedding, layers, output, in fused operators.

Layers are built from what a shape and its `Details` say; names of weights are GGUF's. Past keys and
values come in and go out as GroupQueryAttention keeps them, one pair a layer, so that an engine can
update them in place. Knows no checkpoint and no level's name.
"""

from __future__ import annotations

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.layout import family
from edge_runtime.errors import UnsupportedError

from ..writers.onnx import Element
from .details import Details
from .experts import mixture
from .graph import FUSED, Graph
from .interface import LAST_ONLY, WHOLE_LENGTH, unless_given
from .rope import RopeTable, rope_tables
from .stretching import stretched_angles
from .weights import (
    Storage,
    StoredTensor,
    StoredWeights,
    Weights,
    block_tensors,
    float_tensor,
    rope_tensors,
)


def decoder(shape: ModelShape, details: Details, weights: Weights, storage: Storage) -> Graph:
    """Builds the graph; its inputs and outputs are those of `inputs_of` and `outputs_of`.

    Raises UnsupportedError for heads of a width that the operator does not take.
    """
    if shape.head_dim % 8:
        raise UnsupportedError(
            f"Heads of {shape.head_dim} cannot be written as ONNX here.",
            cause="GroupQueryAttention takes widths that are multiples of 8.",
        )
    return _Decoder(shape, details, weights, storage).build()


class _Decoder:
    def __init__(
        self, shape: ModelShape, details: Details, weights: Weights, storage: Storage
    ) -> None:
        self.shape, self.details, self.weights, self.storage = shape, details, weights, storage
        self.kind = family(shape.architecture)
        self.graph = Graph(storage.element)
        self.tables = rope_tables(shape, details.yarn)
        # What the operator takes itself; narrower heads are turned by a node of their own.
        self.rotates_inside = (
            not shape.head_dim % 16
            and not shape.rope_dimensions % 16
            and details.dynamic_factor is None
        )
        self.positions = ""
        self.angles: dict[str, list[str]] = {"all": []}
        """Cosines and sines by the layers they are for."""

    def build(self) -> Graph:
        graph, shape = self.graph, self.shape
        self._lengths()
        if self._needs_positions:
            self._positions()
        self._rotary_tables()
        stream = self._embedded()
        delta: str | None = None
        for layer in range(shape.layers):
            stream, delta = self._layer(layer, stream, delta)
        x, _ = self._norm_of_sum(stream, delta, "output_norm", 1.0 / (shape.logit_scale or 1.0))
        self._logits(self._last(x))
        return graph

    def _lengths(self) -> None:
        add, numbers = self.graph.add, self.graph.numbers
        add("ReduceSum", ("attention_mask", numbers(1)), "lengths", keepdims=0)
        add("Sub", ("lengths", numbers(1)), "lengths_less_one")
        add("Cast", ("lengths_less_one",), "seqlens_k", to=int(Element.INT32))
        add("Shape", ("attention_mask",), "mask_shape")
        add("Gather", ("mask_shape", numbers(1, scalar=True)), "total_tokens", axis=0)
        add("Cast", ("total_tokens",), "total_sequence_length", to=int(Element.INT32))

    @property
    def _needs_positions(self) -> bool:
        turns_outside = bool(self.tables) and not self.rotates_inside
        return self.kind.position_table or turns_outside or self._is_longrope

    @property
    def _is_longrope(self) -> bool:
        return any(table.name == "long" for table in self.tables)

    def _positions(self) -> None:
        """Counts positions from the mask's sum, since a mask may be longer than what it covers."""
        add, numbers = self.graph.add, self.graph.numbers
        zero, one = numbers(0, scalar=True), numbers(1, scalar=True)
        add("Shape", ("input_ids",), "input_shape")
        add("Gather", ("input_shape", one), "new_tokens", axis=0)
        add("Range", (zero, "new_tokens", one), "new_range")
        add("Sub", ("lengths", "new_tokens"), "past_lengths")
        add("Unsqueeze", ("past_lengths", numbers(1)), "past_column")
        self.positions = add("Add", ("past_column", "new_range"), "positions")
        if self._is_longrope:
            # Both tables lie in one, the long one behind: past the first context all positions
            # look there. A choice between two tables would copy the chosen one every time.
            short = numbers(self.tables[0].rows, scalar=True)
            self.graph.constants[WHOLE_LENGTH] = unless_given(WHOLE_LENGTH)
            add("Max", ("total_tokens", WHOLE_LENGTH), "turned_tokens")
            add("Greater", ("turned_tokens", short), "is_long")
            add("Where", ("is_long", short, zero), "long_offset")
            self.positions = add("Add", ("positions", "long_offset"), "rotary_positions")

    def _rotary_tables(self) -> None:
        if self.details.dynamic_factor is not None:
            *self.angles["all"], self.positions = stretched_angles(
                self.graph, self.shape, self.details.dynamic_factor, self.positions, "total_tokens"
            )
            return
        groups: dict[str, tuple[RopeTable, ...]] = {}
        if self._is_longrope:
            groups["all"] = self.tables
        else:
            groups = {table.name: (table,) for table in self.tables}
        for name, tables in groups.items():
            names = (f"rope_cos.{name}", f"rope_sin.{name}")
            self.angles[name] = [*names]
            self.graph.store(rope_tensors(names, tables, self.graph.element))

    def _embedded(self) -> str:
        graph = self.graph
        x = self._looked_up()
        if self.details.embedding_scale is not None:
            x = graph.add(
                "Mul", (x, graph.factor(self.details.embedding_scale)), "embedding.scaled"
            )
        if self.kind.position_table:
            source = self.weights.rows("position_embd.weight")
            dims = (source.rows, source.columns)
            table = graph.store(float_tensor("position_embd.weight", source, graph.element, dims))
            at = graph.add("Gather", (table, self.positions), "position_embedding", axis=0)
            x = graph.add("Add", (x, at), "embedding.placed")
        return x

    def _looked_up(self) -> str:
        """Rows of the embedding: floats, or blocks that the output matrix may share."""
        graph, name = self.graph, "token_embd.weight"
        blocks, source = self.storage.blocks(name), self.weights.rows(name)
        if blocks is None or source.columns % blocks.block_size:
            dims = (source.rows, source.columns)
            # Halves where the other matrices are rounded more than that.
            halved = blocks is None and self.storage.blocks("output.weight") is not None
            kind = Element.FLOAT16 if halved else graph.element
            table = graph.store(float_tensor(name, source, kind, dims))
            x = graph.add("Gather", (table, "input_ids"), "embedding", axis=0)
            return graph.add("Cast", (x,), "embedding.wide", to=int(graph.element)) if halved else x
        shared = "output.weight" if self._shares_blocks else None
        stored = block_tensors(shared or name, source, blocks)
        # The same bytes as the matrix has, but a row's blocks one after another.
        flat = StoredTensor(
            name=name,
            element=Element.UINT8,
            dims=(source.rows, blocks.count(source.columns) * blocks.block_bytes),
            alias_of=shared,
        )
        if shared:
            graph.store(stored)
            graph.store(StoredWeights(tensors=(flat,), slabs=tuple))
        else:
            graph.store(StoredWeights(tensors=(flat, *stored.tensors[1:]), slabs=stored.slabs))
        return graph.add(
            "GatherBlockQuantized",
            (name, "input_ids", *(tensor.name for tensor in stored.tensors[1:])),
            "embedding",
            FUSED,
            bits=blocks.bits,
            block_size=blocks.block_size,
            gather_axis=0,
            quantize_axis=1,
        )

    @property
    def _shares_blocks(self) -> bool:
        """Whether the embedding's blocks are the output matrix's as well."""
        blocks = self.storage.blocks("token_embd.weight")
        return (
            self.shape.tied_embeddings
            and blocks is not None
            and blocks == self.storage.blocks("output.weight")
            and self.shape.hidden % blocks.block_size == 0
        )

    def _layer(self, layer: int, stream: str, delta: str | None) -> tuple[str, str]:
        at, kind = f"blk.{layer}", self.kind
        x, stream = self._entered(stream, delta, f"{at}.attn_norm")
        y = self._attention(layer, x)
        if kind.post_norms:
            y = self._norm(y, f"{at}.post_attention_norm")
        x, stream = self._entered(stream, y, f"{at}.ffn_norm")
        y = self._feed_forward(at, x)
        if kind.post_norms:
            y = self._norm(y, f"{at}.post_ffw_norm")
        return stream, y

    def _entered(self, stream: str, delta: str | None, norm: str) -> tuple[str, str]:
        """What enters a block, and the stream with what the block before it added."""
        if self.kind.pre_norms:
            return self._norm_of_sum(stream, delta, norm)
        if delta is not None:
            stream = self.graph.add("Add", (stream, delta), f"{norm}.sum")
        return stream, stream

    def _attention(self, layer: int, x: str) -> str:
        graph, shape, at = self.graph, self.shape, f"blk.{layer}"
        parts = ("attn_qkv",) if self.kind.attention == "fused" else ("attn_q", "attn_k", "attn_v")
        qkv = self._product(x, f"{at}.attn_qkv", tuple(f"{at}.{part}" for part in parts))
        rotated = self.details.rotated[layer]
        table = "window" if self._has_own_table(layer) else "all"
        inputs = [qkv, "", ""]
        if shape.qk_norm or (rotated and not self.rotates_inside):
            sizes = (shape.heads, shape.kv_heads, shape.kv_heads)
            inputs = graph.split(qkv, qkv, [n * shape.head_dim for n in sizes])
            for i, part in enumerate(("attn_q", "attn_k")):
                if shape.qk_norm:
                    inputs[i] = self._head_norm(inputs[i], f"{at}.{part}_norm", sizes[i])
                if rotated and not self.rotates_inside:
                    inputs[i] = self._turned(inputs[i], f"{at}.{part}", sizes[i], table)
        inputs += [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        inputs += ["seqlens_k", "total_sequence_length"]
        inside = rotated and self.rotates_inside
        if inside:
            inputs += self.angles[table]
            inputs += [self.positions] if self._is_longrope else []
        window = self.details.windows[layer]
        y = graph.add(
            "GroupQueryAttention",
            inputs,
            (f"{at}.attention", f"present.{layer}.key", f"present.{layer}.value"),
            FUSED,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            scale=float(self.details.attention_scale),
            do_rotary=int(inside),
            rotary_interleaved=0,
            local_window_size=-1 if window is None else window,
            **({"softcap": shape.attention_softcap} if shape.attention_softcap else {}),
        )
        return self._product(
            y, f"{at}.attn_output", (f"{at}.attn_output",), factor=shape.residual_scale or 1.0
        )

    def _has_own_table(self, layer: int) -> bool:
        windowed = bool(self.shape.sliding_layers) and self.shape.sliding_layers[layer]
        return windowed and any(table.name == "window" for table in self.tables)

    def _head_norm(self, x: str, name: str, heads: int) -> str:
        """Normalizes queries or keys, head by head or all at once."""
        if self.kind.qk_norm == "all_heads":
            return self._norm(x, name)
        graph, width = self.graph, self.shape.head_dim
        split = graph.add("Reshape", (x, graph.numbers(0, 0, heads, width)), f"{name}.heads")
        normed = self._norm(split, name)
        return graph.add("Reshape", (normed, graph.numbers(0, 0, heads * width)), f"{name}.joined")

    def _turned(self, x: str, name: str, heads: int, table: str) -> str:
        return self.graph.add(
            "RotaryEmbedding",
            (x, self.positions, *self.angles[table]),
            f"{name}.turned",
            FUSED,
            num_heads=heads,
            rotary_embedding_dim=self.shape.rope_dimensions
            if self.shape.rope_dimensions != self.shape.head_dim
            else 0,
        )

    def _feed_forward(self, at: str, x: str) -> str:
        graph, kind, name = self.graph, self.kind.feed_forward, f"{at}.ffn"
        activation = self.details.activation
        if self.shape.experts:
            routed = mixture(
                graph, x, at, self.shape, self.weights, self.storage,
                normalized=self.details.normalizes_experts,
            )  # fmt: skip
            if not self.shape.shared_expert_intermediate:
                return routed
            return graph.add("Add", (routed, self._shared_expert(at, x)), f"{name}.added")
        if kind == "plain":
            up = self._product(x, f"{at}.ffn_up", (f"{at}.ffn_up",))
            y = graph.activated(up, name, activation)
        elif kind == "fused_gated":
            both = self._product(x, f"{at}.ffn_up", (f"{at}.ffn_up",))
            gate, up = graph.split(both, both, [self.shape.intermediate] * 2)
            y = graph.gated(gate, up, name, activation)
        else:
            gate = self._product(x, f"{at}.ffn_gate", (f"{at}.ffn_gate",))
            up = self._product(x, f"{at}.ffn_up", (f"{at}.ffn_up",))
            y = graph.gated(gate, up, name, activation)
        return self._product(
            y, f"{at}.ffn_down", (f"{at}.ffn_down",), factor=self.shape.residual_scale or 1.0
        )

    def _shared_expert(self, at: str, x: str) -> str:
        """The expert that sees every token, as much of it as a gate of its own lets through."""
        graph, name = self.graph, f"{at}.ffn_shexp"
        gate, up = (
            self._product(x, f"{at}.{part}", (f"{at}.{part}",))
            for part in ("ffn_gate_shexp", "ffn_up_shexp")
        )
        gated = graph.gated(gate, up, name, self.details.activation)
        y = self._product(gated, f"{at}.ffn_down_shexp", (f"{at}.ffn_down_shexp",))
        opening = self.weights.rows(f"{at}.ffn_gate_inp_shexp.weight")
        share = graph.product(x, f"{at}.ffn_gate_inp_shexp", opening, None)
        return graph.add("Mul", (y, graph.add("Sigmoid", (share,), f"{name}.share")), f"{name}.let")

    def _product(self, x: str, name: str, parts: tuple[str, ...], factor: float = 1.0) -> str:
        biases = tuple(f"{part}.bias" for part in parts)
        return self.graph.product(
            x,
            name,
            self.weights.rows(*(f"{part}.weight" for part in parts), factor=factor),
            self.storage.blocks(f"{name}.weight"),
            bias=self.weights.rows(*biases, factor=factor) if biases[0] in self.weights else None,
            accuracy_level=self.storage.accuracy_level,
        )

    def _norm(self, x: str, name: str, factor: float = 1.0) -> str:
        return self._norm_of_sum(x, None, name, factor)[0]

    def _norm_of_sum(
        self, stream: str, delta: str | None, name: str, factor: float = 1.0
    ) -> tuple[str, str]:
        """The norm of a stream and what is added to it; and their sum."""
        graph = self.graph
        gains = [graph.vector(f"{name}.weight", self.weights.rows(f"{name}.weight", factor=factor))]
        simplified = self.kind.norm == "rms"
        if not simplified:
            gains.append(graph.vector(f"{name}.bias", self.weights.rows(f"{name}.bias")))
        epsilon = float(self.shape.norm_epsilon)
        op = "SimplifiedLayerNormalization" if simplified else "LayerNormalization"
        if delta is None:
            return graph.add(op, (stream, *gains), name, axis=-1, epsilon=epsilon), stream
        total = f"{name}.sum"
        graph.add(
            f"Skip{op}", (stream, delta, *gains), (name, "", "", total), FUSED, epsilon=epsilon
        )
        return name, total

    def _last(self, x: str) -> str:
        """The positions logits are wanted of: from minus their number on, all from minus zero."""
        graph = self.graph
        graph.constants[LAST_ONLY] = unless_given(LAST_ONLY)
        graph.add("Neg", (LAST_ONLY,), "first_kept")
        start = graph.add("Unsqueeze", ("first_kept", graph.numbers(0)), "first_kept.vector")
        end = graph.numbers(2**62)
        return graph.add("Slice", (x, start, end, graph.numbers(1)), "kept")

    def _logits(self, x: str) -> None:
        graph, shape = self.graph, self.shape
        blocks = self.storage.blocks("output.weight")
        source = "token_embd.weight" if shape.tied_embeddings else "output.weight"
        if self._shares_blocks and blocks is not None:
            stored = block_tensors("output.weight", self.weights.rows(source), blocks).tensors
            y = graph.block_product(
                x, "output", stored, blocks, shape.hidden,
                accuracy_level=self.storage.accuracy_level,
            )  # fmt: skip
        elif blocks is None and shape.tied_embeddings and self.storage.blocks(source) is None:
            y = graph.float_product(x, "output", source)
        else:
            y = graph.product(
                x, "output", self.weights.rows(source), blocks,
                accuracy_level=self.storage.accuracy_level,
            )  # fmt: skip
        if self.graph.element is not Element.FLOAT:
            y = graph.add("Cast", (y,), "output.float32", to=int(Element.FLOAT))
        if shape.final_softcap:
            cap = graph.constant32(shape.final_softcap)
            graph.add("Div", (y, cap), "output.uncapped")
            graph.add("Tanh", ("output.uncapped",), "output.bounded")
            graph.add("Mul", ("output.bounded", cap), "output.capped")
        graph.name_last_output("logits")
