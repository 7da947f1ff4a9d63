"""The tokenizers of the cases: kinds of made-up vocabularies with what the families do to them."""

from __future__ import annotations

import json

from .made_up_tokenizers import CHAT, Files, byte_level, sentencepiece, wordpiece


def llama3() -> Files:
    names = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
    return byte_level(
        "llama-bpe", specials=names, bos=names[0], eos=names[2], adds_bos=True, words=(),
        config={"model_input_names": ["input_ids", "attention_mask"]},
    )  # fmt: skip


def qwen() -> Files:
    return byte_level(
        "qwen2", words=(("<tool_call>", False),), eos="<|im_end|>",
        config={"add_bos_token": False, "pad_token": "<|endoftext|>", "add_prefix_space": False},
    )  # fmt: skip


def gpt2() -> Files:
    return byte_level(
        "gpt-2", specials=("<|endoftext|>",), bos="<|endoftext|>", words=(), merges_as_text=True,
        config={"unk_token": "<|endoftext|>", "add_prefix_space": False, "chat_template": None},
    )  # fmt: skip


def smollm() -> Files:
    return byte_level("smollm", specials_first=True, bos="<|im_start|>", eos="<|im_end|>",
                      config={"pad_token": "<|im_end|>"})  # fmt: skip


def gemma() -> Files:
    first = ("<pad>", "<eos>", "<bos>", "<unk>", "<2mass>", "<unused0>", "\n\n")
    told = {"0": "<pad>", "1": "<eos>", "2": "<bos>", "3": "<unk>", "4": "<2mass>"}
    return sentencepiece(
        first=first,
        config={
            "tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>",
            "pad_token": "<pad>", "chat_template": CHAT,
            "added_tokens_decoder": {i: {"content": t, "special": t != "<2mass>"}
                                     for i, t in told.items()},
        },
    )  # fmt: skip


def tinyllama() -> Files:
    return sentencepiece(
        config={"chat_template": CHAT, "pad_token": "</s>", "legacy": False},
        files={"special_tokens_map.json": {"bos_token": {"content": "<s>"}},
               "added_tokens.json": {"<|user|>": 361, "<custom>": 362}},
    )  # fmt: skip


def phi3() -> Files:
    names = {361: "<|endoftext|>", 362: "<|assistant|>", 363: "<|end|>", 364: "<plain▁word>"}
    decoder = {str(i): {"content": t, "special": i != 364} for i, t in names.items()}
    return sentencepiece(
        config={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "chat_template": CHAT,
                "added_tokens_decoder": decoder},
        files={"added_tokens.json": {t: i for i, t in names.items()}},
    )  # fmt: skip


def phi4() -> Files:
    return byte_level(
        "gpt-2", bos="<|endoftext|>", specials=("<|endoftext|>", "<|end|>", "<|user|>"), words=(),
        config={"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False},
    )  # fmt: skip


def phi2() -> Files:
    return byte_level(
        "gpt-2", specials=("<|endoftext|>",), words=(("  ", True), ("\t\t", False)),
        bos="<|endoftext|>", config={"add_prefix_space": False, "chat_template": None},
    )  # fmt: skip


def neox() -> Files:
    return byte_level(
        "gpt-2", specials=("<|endoftext|>", "<|padding|>"), specials_first=True,
        words=(("   ", True),), bos="<|endoftext|>", config={"unk_token": "<|endoftext|>"},
    )  # fmt: skip


def pooling(mode: str) -> Files:
    """The files with which sentence-transformers says how tokens' vectors become one."""
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    modes = {"cls_token": False, "mean_tokens": False, "lasttoken": False, mode: True}
    stated = {f"pooling_mode_{name}": flag for name, flag in modes.items()}
    return {
        "modules.json": json.dumps(modules).encode(),
        "1_Pooling/config.json": json.dumps({"word_embedding_dimension": 64, **stated}).encode(),
    }


def bert() -> Files:
    return {**wordpiece(), **pooling("cls_token")}


def distilbert() -> Files:
    return {**wordpiece(), **pooling("mean_tokens")}


def qwen3_embedding() -> Files:
    return {**qwen(), **pooling("lasttoken")}
