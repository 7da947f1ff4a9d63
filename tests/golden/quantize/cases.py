"""Tiny checkpoints, one for each thing a family can have: the table that the reference is run on.

A row is a config.json, a tokenizer, a storage type and what is peculiar to it. The checkpoints are
built from a seed without torch or transformers; scripts/reference_digests.py ran llama.cpp's
converter and transformers on them and wrote down, in reference.json, what came out.
"""

from __future__ import annotations

from . import case_tokenizers as tok
from .checkpoint_case import GELU, Case
from .made_up_tokenizers import byte_fallback, sentencepiece, wordpiece
from .random_weights import Config


def of(model_type: str, class_name: str, **config: object) -> Config:
    """A config.json of the usual keys; None takes one away."""
    usual = {
        "architectures": [class_name], "model_type": model_type, "hidden_act": "silu",
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 376,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "torch_dtype": "float16", "initializer_range": 0.02,
        "bos_token_id": 1, "eos_token_id": 2, "transformers_version": "4.57.6",
    }  # fmt: skip
    return {name: value for name, value in {**usual, **config}.items() if value is not None}


def llama(**config: object) -> Config:
    return of("llama", "LlamaForCausalLM", **config)


def inv_freq(size: int, layers: int = 2) -> dict[str, tuple[int, ...]]:
    return {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": (size // 2,) for i in range(layers)}


LLAMA3 = {
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3",
    "original_max_position_embeddings": 64,
}  # fmt: skip
LLAMA3_CONFIG = llama(
    head_dim=32, rope_theta=500000.0, tie_word_embeddings=True, rope_scaling=LLAMA3,
    bos_token_id=336, eos_token_id=[337, 338], vocab_size=352,
)  # fmt: skip
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
QWEN = {
    "bos_token_id": 336,
    "eos_token_id": 338,
    "vocab_size": 352,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}
MOE = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True,
}  # fmt: skip
QWEN3_MOE = of("qwen3_moe", "Qwen3MoeForCausalLM", head_dim=32, **QWEN, **MOE)
QWEN3 = of("qwen3", "Qwen3ForCausalLM", head_dim=32, tie_word_embeddings=True, **QWEN)
GEMMA = {
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "head_dim": 32,
    "rms_norm_eps": 1e-6, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
    "tie_word_embeddings": True,
}  # fmt: skip
GEMMA3 = {
    **of("gemma3_text", "Gemma3ForCausalLM", **GEMMA), "num_hidden_layers": 6,
    "sliding_window": 32, "sliding_window_pattern": 6, "rope_theta": 1e6,
    "rope_local_base_freq": 10000.0, "query_pre_attn_scalar": 32,
}  # fmt: skip
LONG = [1.0 + 0.5 * i for i in range(8)]
LONGROPE = {"type": "longrope", "short_factor": [1.0 + 0.05 * i for i in range(8)],
            "long_factor": LONG}  # fmt: skip
PHI3 = {"num_key_value_heads": 4, "pad_token_id": 0, "attention_dropout": 0.0}
STABLELM = {
    "rms_norm_eps": None, "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25,
    "vocab_size": 337, "bos_token_id": 336, "eos_token_id": 336,
}  # fmt: skip
GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 64, "n_layer": 2,
    "n_head": 4, "n_positions": 64, "n_ctx": 64, "vocab_size": 337, "n_inner": None,
    "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "bos_token_id": 336,
    "eos_token_id": 336,
}  # fmt: skip
NEOX = of(
    "gpt_neox", "GPTNeoXForCausalLM", hidden_act="gelu", num_key_value_heads=None, vocab_size=352,
    rms_norm_eps=None, layer_norm_eps=1e-5, rotary_pct=0.25, rotary_emb_base=10000,
    intermediate_size=256, use_parallel_residual=True, rope_theta=None,
)  # fmt: skip
BERT = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "hidden_act": "gelu", "max_position_embeddings": 64, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12, "vocab_size": 192, "pad_token_id": 0, "torch_dtype": "float32",
}  # fmt: skip


CASES = (
    Case(  # as published in 2023: what later became usual is left out, rotary tables lie beside
        name="llama-1", dtype="F16", tokenizer=sentencepiece, beside=inv_freq(16),
        config=llama(num_key_value_heads=None, rope_theta=None, pad_token_id=0),
    ),
    Case(
        name="llama-2-json", dtype="F16", tokenizer=byte_fallback,
        config={**llama(vocab_size=361, pretraining_tp=1), "rope_scaling": None, "head_dim": None},
    ),
    Case(
        name="llama-3", dtype="BF16", pre="llama-bpe", tokenizer=tok.llama3, shards=2,
        config=LLAMA3_CONFIG, lengths=(40, 300),
    ),
    Case(  # tied, and lm_head stored all the same
        name="llama-3-transformers-5", dtype="BF16", pre="llama-bpe", tokenizer=tok.llama3,
        twin="llama-3", beside={"lm_head.weight": (352, 64)},
        config={
            **{k: v for k, v in LLAMA3_CONFIG.items()
               if k not in {"rope_theta", "rope_scaling", "torch_dtype"}},
            "dtype": "bfloat16", "rope_parameters": {**LLAMA3, "rope_theta": 500000.0},
        },
    ),
    Case(
        name="llama-linear", dtype="F32", tokenizer=sentencepiece, lengths=(40, 100),
        config=llama(rope_scaling={"type": "linear", "factor": 4.0}, attention_bias=True,
                     mlp_bias=True, max_position_embeddings=32),
    ),
    Case(
        name="llama-yarn", dtype="BF16", pre="gpt-2", tokenizer=tok.gpt2, lengths=(40, 200),
        config=llama(vocab_size=337, rope_scaling={**YARN, "rope_type": "yarn", "beta_fast": 32.0,
                                                   "beta_slow": 1}),
    ),
    Case(  # keys that llama.cpp carries but does not heed in this family: no logits
        name="llama-yarn-factors", dtype="F16", pre="gpt-2", tokenizer=tok.gpt2, lengths=(),
        config=llama(vocab_size=337, rope_scaling={
            **YARN, "rope_type": "yarn", "attention_factor": 1.25, "beta_fast": 16.0,
            "beta_slow": 2, "extrapolation_factor": 0.5, "truncate": False,
        }),
    ),
    Case(
        name="tinyllama", dtype="F32", tokenizer=tok.tinyllama,
        config=llama(intermediate_size=88, num_key_value_heads=1),
    ),
    Case(
        name="smollm2", dtype="BF16", pre="smollm", tokenizer=tok.smollm,
        config=llama(tie_word_embeddings=True, num_attention_heads=8, num_key_value_heads=4,
                     vocab_size=341, rope_theta=100000.0, rope_interleaved=False,
                     pad_token_id=2),
    ),
    Case(  # the model without its head, as embedding models are saved
        name="smollm2-headless", dtype="BF16", pre="smollm", tokenizer=tok.smollm, twin="smollm2",
        config=llama(architectures=["LlamaModel"], tie_word_embeddings=True,
                     num_attention_heads=8, vocab_size=341, rope_theta=100000.0,
                     num_key_value_heads=4),
        rename=lambda name: name.removeprefix("model."),
    ),
    Case(
        name="mistral", dtype="BF16", tokenizer=tok.tinyllama, shards=3,
        config=of("mistral", "MistralForCausalLM", head_dim=32, sliding_window=16,
                  rope_theta=1e6),
        lengths=(16,),
    ),
    Case(
        name="mixtral", dtype="BF16", tokenizer=sentencepiece, shards=2,
        config=of("mixtral", "MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2,
                  sliding_window=None, output_router_logits=False),
    ),
    Case(
        name="qwen2", dtype="BF16", pre="qwen2", tokenizer=tok.qwen,
        config=of("qwen2", "Qwen2ForCausalLM", tie_word_embeddings=True, sliding_window=32,
                  use_sliding_window=False, max_window_layers=2, **QWEN),
    ),
    Case(
        name="qwen2-yarn", dtype="F16", pre="qwen2", tokenizer=tok.qwen, lengths=(40, 300),
        config=of("qwen2", "Qwen2ForCausalLM", intermediate_size=80, rope_scaling=YARN, **QWEN),
    ),
    Case(
        name="qwen2-yarn-transformers-5", dtype="F16", pre="qwen2", tokenizer=tok.qwen,
        twin="qwen2-yarn", lengths=(300,),
        config={
            **of("qwen2", "Qwen2ForCausalLM", intermediate_size=80,
                 **{**QWEN, "rope_theta": None}, dtype="float16", torch_dtype=None),
            "rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0,
                                "original_max_position_embeddings": 32},
        },
    ),
    Case(
        name="qwen2-moe", dtype="F32", pre="qwen2", tokenizer=tok.qwen,
        config=of("qwen2_moe", "Qwen2MoeForCausalLM", shared_expert_intermediate_size=96, **QWEN,
                  **{**MOE, "norm_topk_prob": False}),
    ),
    Case(name="qwen3", dtype="BF16", pre="qwen2", tokenizer=tok.qwen,
         config={**QWEN3, "rope_scaling": None, "sliding_window": None}),
    Case(
        name="qwen3-transformers-5", dtype="BF16", pre="qwen2", tokenizer=tok.qwen, twin="qwen3",
        config={
            **{k: v for k, v in QWEN3.items() if k not in {"rope_theta", "torch_dtype"}},
            "dtype": "bfloat16", "layer_types": ["full_attention"] * 2,
            "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
        },
    ),
    Case(
        name="qwen3-embedding", dtype="BF16", pre="qwen2", tokenizer=tok.qwen3_embedding,
        twin="qwen3",
        config=QWEN3, lengths=(), rename=lambda name: name.removeprefix("model."),
    ),
    Case(  # sizes of heads and angles of positions are the model class's
        name="qwen3-defaults", dtype="BF16", pre="qwen2", tokenizer=tok.qwen,
        defaults={"head_dim": 128},
        config=of("qwen3", "Qwen3ForCausalLM", num_attention_heads=2, num_key_value_heads=1,
                  max_position_embeddings=None, tie_word_embeddings=True,
                  **{**QWEN, "rope_theta": None, "rms_norm_eps": None}),
    ),
    Case(
        name="qwen3-moe", dtype="BF16", pre="qwen2", tokenizer=tok.qwen,
        shards=3, config=QWEN3_MOE,
    ),
    Case(
        name="qwen3-moe-fused", dtype="BF16", pre="qwen2", tokenizer=tok.qwen, twin="qwen3-moe",
        fused=True, config=QWEN3_MOE,
    ),
    Case(
        name="gemma", dtype="BF16", tokenizer=tok.gemma, limit=GELU,
        config=of("gemma", "GemmaForCausalLM", **{**GEMMA, "num_key_value_heads": 1}),
    ),
    Case(
        name="gemma-2", dtype="F32", tokenizer=tok.gemma, limit=GELU,
        config=of("gemma2", "Gemma2ForCausalLM", **GEMMA, sliding_window=16,
                  attn_logit_softcapping=5.0, final_logit_softcapping=3.0,
                  query_pre_attn_scalar=32, cache_implementation="hybrid"),
        beside={"lm_head.weight": (376, 64)},
    ),
    Case(
        name="gemma-2-defaults", dtype="F16", tokenizer=tok.gemma, limit=GELU,
        defaults={"head_dim": 256},
        config=of("gemma2", "Gemma2ForCausalLM", num_attention_heads=2, num_key_value_heads=1,
                  hidden_act=None, rms_norm_eps=None, rope_theta=None, tie_word_embeddings=True,
                  max_position_embeddings=None),
    ),
    Case(
        name="gemma-3", dtype="BF16", tokenizer=tok.gemma, limit=GELU, lengths=(40, 100),
        config=GEMMA3,
    ),
    Case(
        name="gemma-3-transformers-5", dtype="BF16", tokenizer=tok.gemma,
        twin="gemma-3", limit=GELU,
        lengths=(40,),
        config={
            **{k: v for k, v in GEMMA3.items()
               if k not in {"rope_theta", "rope_local_base_freq", "sliding_window_pattern"}},
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            },
        },
    ),
    Case(
        name="gemma-3-with-vision", dtype="BF16", tokenizer=tok.gemma, twin="gemma-3", limit=GELU,
        config={
            "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
            "text_config": {k: v for k, v in GEMMA3.items() if k != "architectures"},
            "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 32},
        },
        rename=lambda name: "language_model." + name,
        beside={"vision_tower.vision_model.embeddings.patch_embedding.bias": (32,),
                "multi_modal_projector.mm_input_projection_weight": (32, 64)},
    ),
    Case(
        name="phi-2", dtype="F16", pre="gpt-2", tokenizer=tok.phi2, limit=GELU,
        config=of("phi", "PhiForCausalLM", hidden_act="gelu_new", num_key_value_heads=4,
                  rms_norm_eps=None, layer_norm_eps=1e-5, partial_rotary_factor=0.5,
                  intermediate_size=256, vocab_size=352, bos_token_id=336, eos_token_id=336,
                  qk_layernorm=False),
    ),
    Case(
        name="phi-3", dtype="BF16", tokenizer=tok.phi3, lengths=(40,),
        config=of("phi3", "Phi3ForCausalLM", **PHI3, sliding_window=512,
                  original_max_position_embeddings=512),
    ),
    Case(
        name="phi-3.5", dtype="BF16", tokenizer=tok.phi3, shards=2, lengths=(40, 400),
        config=of("phi3", "Phi3ForCausalLM", **PHI3, sliding_window=2048, rope_scaling=LONGROPE,
                  max_position_embeddings=2048, original_max_position_embeddings=256),
    ),
    Case(
        name="phi-3.5-transformers-5", dtype="BF16", tokenizer=tok.phi3, twin="phi-3.5", shards=2,
        lengths=(40, 400),
        config={
            **of("phi3", "Phi3ForCausalLM", **PHI3, sliding_window=2048, rope_theta=None,
                 max_position_embeddings=2048, dtype="bfloat16", torch_dtype=None),
            "rope_parameters": {**{k: v for k, v in LONGROPE.items() if k != "type"},
                                "rope_type": "longrope", "rope_theta": 10000.0,
                                "original_max_position_embeddings": 256,
                                "partial_rotary_factor": 1.0},
        },
    ),
    Case(
        name="phi-4-mini", dtype="BF16", pre="gpt-2", tokenizer=tok.phi4, lengths=(40, 400),
        config=of("phi3", "Phi3ForCausalLM", pad_token_id=336, tie_word_embeddings=True,
                  vocab_size=352, bos_token_id=336, eos_token_id=336, partial_rotary_factor=0.75,
                  max_position_embeddings=2048, original_max_position_embeddings=256,
                  rope_scaling={**LONGROPE, "short_factor": [1.0] * 6,
                                "long_factor": LONG[:6]}),
    ),
    Case(
        name="smollm3", dtype="BF16", pre="llama-bpe", tokenizer=tok.llama3,
        config=of("smollm3", "SmolLM3ForCausalLM", num_hidden_layers=4, no_rope_layer_interval=4,
                  no_rope_layers=[1, 1, 1, 0], tie_word_embeddings=True, rope_theta=2e6,
                  vocab_size=352, bos_token_id=336, eos_token_id=337, pad_token_id=337,
                  layer_types=["full_attention"] * 4, use_sliding_window=False,
                  sliding_window=None),
    ),
    Case(
        name="stablelm-2-1.6b", dtype="F16", pre="gpt-2", tokenizer=tok.gpt2,
        config=of("stablelm", "StableLmForCausalLM", **STABLELM, use_parallel_residual=False,
                  use_qkv_bias=True, qk_layernorm=False),
    ),
    Case(
        name="stablelm-2-12b", dtype="BF16", pre="gpt-2", tokenizer=tok.gpt2,
        config=of("stablelm", "StableLmForCausalLM", **STABLELM, use_parallel_residual=True,
                  use_qkv_bias=False, qk_layernorm=True, rope_theta=50000.0),
    ),
    Case(
        name="olmo-2", dtype="F32", pre="gpt-2", tokenizer=tok.phi2, shards=2,
        config=of("olmo2", "Olmo2ForCausalLM", rms_norm_eps=1e-6, rope_theta=500000.0,
                  vocab_size=352, num_key_value_heads=4, attention_bias=False, eos_token_id=336,
                  pad_token_id=337, bos_token_id=None),
    ),
    Case(
        name="olmo-3", dtype="BF16", pre="gpt-2", tokenizer=tok.phi2,
        config=of("olmo3", "Olmo3ForCausalLM", num_hidden_layers=4, sliding_window=16,
                  rms_norm_eps=1e-6, vocab_size=352, attention_bias=False, eos_token_id=336,
                  layer_types=["sliding_attention"] * 3 + ["full_attention"], bos_token_id=None),
    ),
    Case(
        name="olmoe", dtype="BF16", pre="gpt-2", tokenizer=tok.phi2,
        config=of("olmoe", "OlmoeForCausalLM", num_experts=4, num_experts_per_tok=2,
                  norm_topk_prob=False, num_key_value_heads=4, vocab_size=352, eos_token_id=336,
                  bos_token_id=None, clip_qkv=None, attention_bias=False),
    ),
    Case(
        name="granite", dtype="BF16", pre="smollm", tokenizer=tok.smollm,
        config=of("granite", "GraniteForCausalLM", embedding_multiplier=12.0,
                  attention_multiplier=0.125, residual_multiplier=0.22, logits_scaling=8.0,
                  tie_word_embeddings=True, vocab_size=341, bos_token_id=0, eos_token_id=0,
                  pad_token_id=0, attention_bias=False, mlp_bias=False),
    ),
    Case(name="gpt-2", dtype="F32", pre="gpt-2", tokenizer=tok.gpt2, config=GPT2, limit=GELU),
    Case(  # as published in 2019: no common prefix, masks stored
        name="gpt-2-old", dtype="F32", pre="gpt-2", tokenizer=tok.gpt2, config=GPT2, twin="gpt-2",
        rename=lambda name: name.removeprefix("transformer."), limit=GELU,
        beside={f"h.{i}.attn.bias": (1, 1, 64, 64) for i in range(2)},
    ),
    Case(
        name="starcoder-2", dtype="BF16", pre="smollm", tokenizer=tok.smollm, limit=GELU,
        config=of("starcoder2", "Starcoder2ForCausalLM", hidden_act="gelu_pytorch_tanh",
                  rms_norm_eps=None, norm_epsilon=1e-5, use_bias=True, sliding_window=4096,
                  mlp_type="default", tie_word_embeddings=True, vocab_size=341,
                  bos_token_id=0, eos_token_id=0),
    ),
    Case(
        name="gpt-neox", dtype="F16", pre="gpt-2", tokenizer=tok.neox, limit=GELU, config=NEOX,
        beside={f"gpt_neox.layers.{i}.attention.{name}": dims for i in range(2)
                for name, dims in (("bias", (1, 1, 32, 32)), ("masked_bias", (1,)),
                                   ("rotary_emb.inv_freq", (2,)))},
    ),
    Case(
        name="gpt-neox-transformers-5", dtype="F16", pre="gpt-2", tokenizer=tok.neox, limit=GELU,
        twin="gpt-neox",
        config={
            **{k: v for k, v in NEOX.items()
               if k not in {"rotary_pct", "rotary_emb_base", "torch_dtype"}},
            "dtype": "float16", "rope_parameters": {
                "rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 0.25},
        },
    ),
    Case(
        name="gpt-neox-sequential", dtype="F32", pre="gpt-2", tokenizer=tok.neox, limit=GELU,
        config={**NEOX, "use_parallel_residual": False, "rotary_pct": 1.0, "rotary_emb_base": 5000},
    ),
    Case(
        name="bert", dtype="F32", pre="default", tokenizer=tok.bert, config=BERT, limit=GELU,
        beside={"embeddings.position_ids": (1, 64)},
    ),
    Case(
        name="bert-masked-lm", dtype="F32", pre="default", tokenizer=wordpiece, twin="bert",
        limit=GELU, rename=lambda name: "bert." + name,
        config={**BERT, "architectures": ["BertForMaskedLM"]},
        beside={"cls.predictions.bias": (192,), "cls.predictions.transform.dense.bias": (64,),
                "cls.seq_relationship.weight": (2, 64)},
    ),
    Case(
        name="distilbert", dtype="F32", pre="default", tokenizer=tok.distilbert, limit=GELU,
        config={
            "architectures": ["DistilBertModel"], "model_type": "distilbert", "dim": 64,
            "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "activation": "gelu",
            "max_position_embeddings": 64, "vocab_size": 192, "pad_token_id": 0,
            "sinusoidal_pos_embds": False, "torch_dtype": "float32",
        },
    ),
)  # fmt: skip
"""Every case, sorted by family."""
