"""The `config.json` of a shape: what a synthetic model's folder says of itself.

The inverse of `ModelShape.from_config`, for the families whose graph is known; keys are those of
transformers 4. Knows no file and no weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from edge_runtime.artifact import ModelShape
from edge_runtime.artifact.layout import family

_CLASSES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "llama": ("llama", "LlamaForCausalLM"),
        "qwen2": ("qwen2", "Qwen2ForCausalLM"),
        "qwen2moe": ("qwen2_moe", "Qwen2MoeForCausalLM"),
        "qwen3": ("qwen3", "Qwen3ForCausalLM"),
        "qwen3moe": ("qwen3_moe", "Qwen3MoeForCausalLM"),
        "gemma": ("gemma", "GemmaForCausalLM"),
        "gemma2": ("gemma2", "Gemma2ForCausalLM"),
        "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
        "phi3": ("phi3", "Phi3ForCausalLM"),
        "smollm3": ("smollm3", "SmolLM3ForCausalLM"),
        "olmo2": ("olmo2", "Olmo2ForCausalLM"),
        "olmoe": ("olmoe", "OlmoeForCausalLM"),
        "granite": ("granite", "GraniteForCausalLM"),
        "gpt2": ("gpt2", "GPT2LMHeadModel"),
    }
)
# What Llama 3.1 and 3.2 state: a shape keeps only that there are such factors.
_LLAMA3 = MappingProxyType(
    {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
)

_Pair = tuple[str, object]


def config_of(shape: ModelShape) -> dict[str, object]:
    """Returns a config that `ModelShape.from_config` reads as this shape.

    The factors of `llama3` scaling are those of Llama 3.1, since a shape may not know its own.
    """
    model_type, class_name = _CLASSES[shape.architecture]
    if shape.architecture == "olmo2" and shape.sliding_layers:
        model_type, class_name = "olmo3", "Olmo3ForCausalLM"
    if shape.architecture == "llama" and shape.experts:
        model_type, class_name = "mixtral", "MixtralForCausalLM"
    return {
        "architectures": [class_name],
        "model_type": model_type,
        **dict(_sizes(shape)),
        **dict(_positions(shape)),
        **dict(_scales(shape)),
        **dict(_experts(shape)),
    }


def _sizes(shape: ModelShape) -> Iterator[_Pair]:
    yield "hidden_size", shape.hidden
    yield "intermediate_size", shape.intermediate
    yield "num_hidden_layers", shape.layers
    yield "num_attention_heads", shape.heads
    yield "num_key_value_heads", shape.kv_heads
    if shape.architecture != "gpt2":
        yield "head_dim", shape.head_dim
    yield "vocab_size", shape.vocabulary_tokens
    yield "max_position_embeddings", shape.context_tokens
    yield "tie_word_embeddings", shape.tied_embeddings
    if family(shape.architecture).norm == "rms":
        yield "rms_norm_eps", shape.norm_epsilon
    else:
        yield "layer_norm_epsilon", shape.norm_epsilon
    if shape.architecture in ("llama", "granite"):
        yield "attention_bias", shape.qkv_bias
        yield "mlp_bias", shape.mlp_bias
    gelu = shape.architecture in ("gemma", "gemma2", "gemma3", "gpt2")
    yield "hidden_act", "gelu_pytorch_tanh" if gelu else "silu"


def _experts(shape: ModelShape) -> Iterator[_Pair]:
    if not shape.experts:
        return
    yield "num_local_experts" if shape.architecture == "llama" else "num_experts", shape.experts
    yield "num_experts_per_tok", shape.experts_used
    if shape.architecture == "llama":
        return
    yield "norm_topk_prob", True
    if shape.architecture != "olmoe":
        yield "moe_intermediate_size", shape.expert_intermediate
    if shape.architecture == "qwen2moe":
        yield "shared_expert_intermediate_size", shape.shared_expert_intermediate
        yield "qkv_bias", shape.qkv_bias


def _positions(shape: ModelShape) -> Iterator[_Pair]:
    if shape.rope_theta is not None:
        yield "rope_theta", shape.rope_theta
    if shape.rope_theta_sliding is not None:
        yield "rope_local_base_freq", shape.rope_theta_sliding
    if 0 < shape.rope_dimensions < shape.head_dim:
        yield "partial_rotary_factor", shape.rope_dimensions / shape.head_dim
    if shape.original_context_tokens is not None:
        yield "original_max_position_embeddings", shape.original_context_tokens
    scaling = shape.rope_scaling
    if scaling is not None:
        ones = (1.0,) * (shape.rope_dimensions // 2)
        stated: dict[str, dict[str, object]] = {
            "linear": {"factor": scaling.factor},
            "yarn": {
                "factor": scaling.factor,
                "attention_factor": scaling.attention_factor,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "original_max_position_embeddings": shape.original_context_tokens,
            },
            "llama3": dict(_LLAMA3),
            "longrope": {
                "long_factor": list(scaling.long_factors or ones),
                "short_factor": list(scaling.short_factors or ones),
            },
        }
        found = {key: n for key, n in stated[scaling.kind].items() if n is not None}
        yield "rope_scaling", {"rope_type": scaling.kind, **found}
    if shape.sliding_window is not None:
        yield "sliding_window", shape.sliding_window
    if shape.sliding_layers:
        kinds = ("full_attention", "sliding_attention")
        yield "layer_types", [kinds[windowed] for windowed in shape.sliding_layers]


def _scales(shape: ModelShape) -> Iterator[_Pair]:
    for key, value in (
        ("attn_logit_softcapping", shape.attention_softcap),
        ("final_logit_softcapping", shape.final_softcap),
        ("attention_multiplier", shape.attention_scale),
        ("embedding_multiplier", shape.embedding_scale),
        ("residual_multiplier", shape.residual_scale),
        ("logits_scaling", shape.logit_scale),
    ):
        if value is not None:
            yield key, value
