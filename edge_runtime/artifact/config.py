"""Hugging Face `config.json` -> `ModelShape`: the keys of each model class and what they imply.

Spellings of transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`) are read. What
llama.cpp cannot load or would run differently is refused by name. Rules follow llama.cpp's
converter; this module reads no file.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import FormatError, UnsupportedError
from .class_defaults import CLASS_DEFAULTS
from .config_checks import check_runs_as_stated
from .config_rope import read_rope
from .config_values import ConfigValues
from .layout import family
from .shape import ModelShape

ARCHITECTURE_OF: Mapping[str, str] = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi": "phi2",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "olmoe": "olmoe",
    "granite": "granite",
    "starcoder2": "starcoder2",
    "gpt2": "gpt2",
    "gpt_neox": "gptneox",
    "bert": "bert",
    "distilbert": "bert",
}
"""GGUF architectures by transformers `model_type`."""

_MODEL_TYPE_OF_CLASS = {
    "LlamaForCausalLM": "llama",
    "LLaMAForCausalLM": "llama",
    "LlamaModel": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2Model": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3Model": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "PhiForCausalLM": "phi",
    "Phi3ForCausalLM": "phi3",
    "SmolLM3ForCausalLM": "smollm3",
    "StableLmForCausalLM": "stablelm",
    "Olmo2ForCausalLM": "olmo2",
    "Olmo3ForCausalLM": "olmo3",
    "OlmoeForCausalLM": "olmoe",
    "GraniteForCausalLM": "granite",
    "Starcoder2ForCausalLM": "starcoder2",
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoXForCausalLM": "gpt_neox",
    "BertModel": "bert",
    "BertForMaskedLM": "bert",
    "DistilBertModel": "distilbert",
    "DistilBertForMaskedLM": "distilbert",
}


def shape_of_config(config: Mapping[str, object], *, name: str) -> ModelShape:
    """The shape a parsed `config.json` describes.

    Raises UnsupportedError for what llama.cpp cannot run, FormatError naming the key of a value
    that cannot be.
    """
    model_type, values = class_values(config)
    architecture = ARCHITECTURE_OF[model_type]
    size = _Size.read(values, model_type)
    rope = read_rope(
        values, architecture, hidden=size.hidden, heads=size.heads, head_dim=size.head_dim
    )
    experts = _read_experts(values, model_type, size.intermediate)
    bias = _BIASES.get(architecture, _no_bias)(values)
    window, windowed = read_window(values, architecture, size.layers)
    check_runs_as_stated(
        values, architecture, layers=size.layers, heads=size.heads, kv_heads=size.kv_heads
    )
    return ModelShape(
        name=name,
        architecture=architecture,
        layers=size.layers,
        layers_of_model=size.layers,
        hidden=size.hidden,
        intermediate=size.intermediate,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        vocabulary_tokens=values.count("vocab_size", most=2**24),
        context_tokens=values.count("max_position_embeddings", "n_positions", most=2**31 - 1),
        tied_embeddings=_first_class(config) in _HEADLESS_CLASSES
        or _read_tied(values, architecture),
        norm_epsilon=values.number(
            "rms_norm_eps",
            "layer_norm_eps",
            "layer_norm_epsilon",
            "norm_epsilon",
            "norm_eps",
            most=1.0,
        ),
        rope_theta=rope.theta,
        rope_theta_sliding=rope.theta_sliding if window is not None else None,
        rope_dimensions=rope.dimensions,
        rope_scaling=rope.scaling,
        original_context_tokens=rope.original_context_tokens,
        sliding_window=window,
        sliding_layers=windowed,
        experts=experts.total,
        experts_used=experts.used,
        expert_intermediate=experts.intermediate,
        shared_expert_intermediate=experts.shared_intermediate,
        qkv_bias=bias.qkv,
        attention_output_bias=bias.attention_output,
        mlp_bias=bias.mlp,
        qk_norm=_read_qk_norm(values, architecture),
        parallel_residual=architecture in ("stablelm", "gptneox")
        and values.flag("use_parallel_residual"),
        attention_softcap=_cap(values, "attn_logit_softcapping", architecture == "gemma2"),
        final_softcap=_cap(values, "final_logit_softcapping", architecture in ("gemma2", "gemma3")),
        attention_scale=_cap(values, "attention_multiplier", architecture == "granite"),
        embedding_scale=_cap(values, "embedding_multiplier", architecture == "granite"),
        residual_scale=_cap(values, "residual_multiplier", architecture == "granite"),
        logit_scale=_cap(values, "logits_scaling", architecture == "granite"),
        token_types=_read_token_types(values, architecture),
    )


_HEADLESS_CLASSES = ("LlamaModel", "Qwen2Model", "Qwen3Model")
"""Classes of embedding models, whose checkpoints end with the last norm."""


def _first_class(config: Mapping[str, object]) -> object:
    classes = config.get("architectures")
    return classes[0] if isinstance(classes, list | tuple) and classes else None


def class_values(config: Mapping[str, object]) -> tuple[str, ConfigValues]:
    """The transformers `model_type` of a text model, and its config with class defaults filled in.

    Of a model that also sees, the text part counts. Raises as `shape_of_config` does.
    """
    text = config.get("text_config")
    if isinstance(text, Mapping) and config.get("model_type") in ("gemma3", None):
        config = {"model_type": "gemma3_text", **text}
    model_type = _model_type(config)
    return model_type, ConfigValues({**CLASS_DEFAULTS[model_type], **config})


def _model_type(config: Mapping[str, object]) -> str:
    first = _first_class(config)
    if isinstance(first, str) and first in _MODEL_TYPE_OF_CLASS:
        return _MODEL_TYPE_OF_CLASS[first]
    stated = config.get("model_type")
    if isinstance(stated, str) and stated in ARCHITECTURE_OF:
        return stated
    found = next((str(n)[:60] for n in (first, stated) if isinstance(n, str) and n), None)
    if found is None:
        raise FormatError(
            "The config names no model: it has neither architectures nor model_type.",
            way_out="Give the config.json of a language model.",
        )
    near = difflib.get_close_matches(found, [*_MODEL_TYPE_OF_CLASS, *ARCHITECTURE_OF], n=2)
    raise UnsupportedError(
        f"The architecture {found!r} is not supported.",
        cause=f"Nearest: {' or '.join(near)}." if near else "",
        way_out=f"Known: {', '.join(ARCHITECTURE_OF)}.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def read(cls, values: ConfigValues, model_type: str) -> _Size:
        hidden = values.count("hidden_size", "n_embd", "dim", most=2**18)
        heads = values.count("num_attention_heads", "n_head", "n_heads", most=2**12)
        kv_heads = values.count("num_key_value_heads", default=heads, most=2**12)
        intermediate = values.count(
            "intermediate_size", "n_inner", "hidden_dim", default=4 * hidden, most=2**22
        )
        if model_type in ("gpt2", "gpt_neox", "phi", "bert", "distilbert"):
            kv_heads = heads  # these classes have no grouped queries llama.cpp would load
        if heads % kv_heads:
            raise FormatError(
                f"num_key_value_heads is {kv_heads}, which does not divide the {heads} heads."
            )
        own = hidden // heads
        head_dim = values.count("head_dim", default=own, most=2**14)
        if model_type not in _HEAD_DIM_TYPES:
            if head_dim != own and model_type != "granite":
                raise UnsupportedError(
                    f"head_dim is {head_dim}; {model_type} models run with hidden_size / heads,"
                    f" {own}."
                )
            head_dim = own
        if heads * head_dim > _MOST_ATTENTION_ROWS:
            raise FormatError(f"{heads} heads of {head_dim} are more than any model has.")
        if head_dim == own and hidden % heads:
            raise FormatError(f"hidden_size is {hidden}, no multiple of its {heads} heads.")
        return cls(
            layers=values.count("num_hidden_layers", "n_layer", "n_layers", most=512),
            hidden=hidden,
            intermediate=intermediate,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
        )


_MOST_ATTENTION_ROWS = 2**20
"""Far above every model's; tables with an entry for each of them stay small."""

_HEAD_DIM_TYPES = frozenset(
    {
        "llama",
        "mistral",
        "mixtral",
        "qwen3",
        "qwen3_moe",
        "gemma",
        "gemma2",
        "gemma3_text",
        "smollm3",
    }
)
"""Model classes whose heads may be wider or narrower than hidden_size / heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Experts:
    total: int = 0
    used: int = 0
    intermediate: int = 0
    shared_intermediate: int = 0


def _read_experts(values: ConfigValues, model_type: str, intermediate: int) -> _Experts:
    if model_type not in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe"):
        return _Experts()
    if model_type.startswith("qwen") and (
        values.count("decoder_sparse_step", default=1, most=512) != 1
        or values.get("mlp_only_layers")
    ):
        raise UnsupportedError(
            "decoder_sparse_step and mlp_only_layers make some layers dense.",
            cause="llama.cpp expects experts in every layer of this architecture.",
        )
    # A class's default of num_experts must not hide what transformers 5 calls num_local_experts.
    total = values.count("num_local_experts", "num_experts", most=1024)
    used = values.count("num_experts_per_tok", most=1024)
    if used > total:
        raise FormatError(f"num_experts_per_tok is {used}, more than the {total} experts.")
    own = model_type.startswith("qwen")
    shared = "shared_expert_intermediate_size"
    return _Experts(
        total=total,
        used=used,
        intermediate=values.count("moe_intermediate_size", most=2**22) if own else intermediate,
        shared_intermediate=values.count(shared, most=2**22) if model_type == "qwen2_moe" else 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bias:
    qkv: bool = False
    attention_output: bool = False
    mlp: bool = False


_ALL_BIASES = _Bias(qkv=True, attention_output=True, mlp=True)


def _no_bias(values: ConfigValues) -> _Bias:
    for key in ("attention_bias", "mlp_bias"):
        if values.flag(key, default=False):
            raise UnsupportedError(f"{key} is true, which llama.cpp does not load for this class.")
    return _Bias()


def _configured_bias(values: ConfigValues) -> _Bias:
    attention = values.flag("attention_bias", default=False)
    mlp = values.flag("mlp_bias", default=False)
    return _Bias(qkv=attention, attention_output=attention, mlp=mlp)


def _required_bias(key: str) -> Callable[[ConfigValues], _Bias]:
    def read(values: ConfigValues) -> _Bias:
        if not values.flag(key, default=True):
            raise UnsupportedError(f"{key} is false; llama.cpp demands biases for this class.")
        return _ALL_BIASES

    return read


_BIASES: Mapping[str, Callable[[ConfigValues], _Bias]] = {
    "llama": _configured_bias,
    "granite": _configured_bias,
    "qwen2": lambda _: _Bias(qkv=True),
    "qwen2moe": lambda values: _Bias(qkv=values.flag("qkv_bias", default=True)),
    "phi3": lambda _: _Bias(),  # its classes carry the keys and ignore them
    "stablelm": lambda values: _Bias(qkv=values.flag("use_qkv_bias")),
    "starcoder2": _required_bias("use_bias"),
    "gptneox": _required_bias("attention_bias"),
    "phi2": lambda _: _ALL_BIASES,
    "gpt2": lambda _: _ALL_BIASES,
    "bert": lambda _: _ALL_BIASES,
}


def _read_qk_norm(values: ConfigValues, architecture: str) -> bool:
    if architecture == "stablelm":
        return values.flag("qk_layernorm")
    if architecture == "phi2" and values.flag("qk_layernorm"):
        raise UnsupportedError("qk_layernorm is true, which llama.cpp does not load for Phi.")
    return family(architecture).qk_norm != "none"


def _read_tied(values: ConfigValues, architecture: str) -> bool:
    if family(architecture).encoder:
        return True  # there is no output matrix
    tied = values.flag("tie_word_embeddings")
    output = family(architecture).output
    if (output == "never" and not tied) or (output == "required" and tied):
        raise UnsupportedError(
            f"tie_word_embeddings is {str(tied).lower()}.",
            cause=f"llama.cpp loads {architecture} models only the other way.",
        )
    return tied


def read_window(
    values: ConfigValues, architecture: str, layers: int
) -> tuple[int | None, tuple[bool, ...]]:
    """The attention window, and the layers llama.cpp really applies it to."""
    if architecture not in ("gemma2", "gemma3", "phi3", "olmo2"):
        return None, ()
    window = values.count("sliding_window", default=0, least=0, most=2**31 - 1)
    period = values.count("sliding_window_pattern", "_sliding_window_pattern", default=6, most=512)
    if window == 0 or (architecture == "gemma3" and period == 1):
        return None, ()
    if architecture == "phi3":
        return window, ()  # written into the file, and switched off by llama.cpp's loader
    kinds = values.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list | tuple) or len(kinds) != layers:
            raise FormatError(f"layer_types must be a list of {layers} names.")
        return window, tuple(kind == "sliding_attention" for kind in kinds)
    period = {"gemma2": 2, "olmo2": 4}.get(architecture, period)
    return window, tuple((i + 1) % period != 0 for i in range(layers))


def _read_token_types(values: ConfigValues, architecture: str) -> int:
    """An encoder's kinds of input. Positions relative to each other, of some, are refused."""
    if not family(architecture).encoder:
        return 0
    kind = values.get("position_embedding_type")
    if kind not in (None, "absolute"):
        raise UnsupportedError(
            f"position_embedding_type is {str(kind)[:40]!r}.",
            cause="llama.cpp runs BERT models with a table of absolute positions only.",
        )
    return values.count("type_vocab_size", least=0, most=2**16)


def _cap(values: ConfigValues, key: str, applies: bool) -> float | None:
    if not applies or not values.get(key):
        return None
    value = values.number(key, most=1e9)
    return value if math.isfinite(value) else None
