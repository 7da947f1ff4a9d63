"""Converted vocabularies give llama.cpp the tokens that the tokenizer's own library gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden.quantize.nasty_texts import TEXTS
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing

from edge_runtime.artifact.config_values import ConfigValues
from quantize.checkpoint import Checkpoint
from quantize.tokenizers import Vocabulary, vocabulary_metadata
from quantize.tokenizers.sentencepiece import read_model
from quantize.writers import gguf

pytestmark = pytest.mark.engine

DATA = Path(__file__).parents[2] / "data"
HELDOUT = DATA.parents[1] / "edge_runtime" / "tiny_model" / "heldout.txt"
CORPUS = [HELDOUT.read_text("utf-8"), *TEXTS]
PUBLISHED = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|%s| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
"""How the tokenizer.json files of Llama 3 and Qwen 2 word what llama.cpp words otherwise."""
MODEL = {
    "general.architecture": "llama", "general.name": "x", "llama.block_count": 1,
    "llama.context_length": 64, "llama.embedding_length": 32, "llama.feed_forward_length": 32,
    "llama.attention.head_count": 1, "llama.attention.layer_norm_rms_epsilon": 1e-5,
}  # fmt: skip
"""Keys without which llama.cpp does not read a vocabulary."""


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    bytes_of_text = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_of_text]
    )


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
BYTE_LEVEL = {
    "gpt-2": (GPT2, False),
    "smollm": (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2]), False,
    ),
    "qwen2": (split(PUBLISHED % r"\p{N}"), False),
    "llama-bpe": (split(PUBLISHED % r"\p{N}{1,3}"), True),
    "smaug-bpe": (split(PUBLISHED % r"\p{N}{1,3}"), False),
}  # fmt: skip


def converted(path: Path, rules: Vocabulary, size: int, **settings: object) -> dict:
    """Writes the files that name the tokenizer's rules, converts, and returns the keys."""
    path.mkdir(exist_ok=True)
    (path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **settings})
    )
    config = {"model_type": "llama", "vocab_size": size}
    (path / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint(path=path, config=config, tensors={})
    found = vocabulary_metadata(checkpoint, ConfigValues(config), rules, vocabulary_tokens=size)
    gguf.write(path / "vocabulary.gguf", {**MODEL, **found}, [])
    return found


def llama_cpp_ids(engine, path: Path, texts=TEXTS) -> list[list[int]]:
    answer = engine(path / "vocabulary.gguf", texts=list(texts), add_special=True)
    return answer["tokens"]


def require_equal(texts, found: list[list[int]], wanted: list[list[int]]) -> None:
    different = [
        (text, ours, theirs)
        for text, ours, theirs in zip(texts, found, wanted, strict=True)
        if ours != theirs
    ]
    assert not different, f"{len(different)} of {len(wanted)} texts: {different[:3]}"


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level(tmp_path, engine, name):
    splitter, ignores_merges = BYTE_LEVEL[name]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=900,
            special_tokens=["<|bos|>", "<|eos|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A <|bos|> $B", special_tokens=[("<|bos|>", 0)]
    )
    described = json.loads(tokenizer.to_str())
    described["model"]["ignore_merges"] = ignores_merges
    tmp_path.joinpath("tokenizer.json").write_text(json.dumps(described))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    found = converted(
        tmp_path, Vocabulary.BYTE_LEVEL, 920, bos_token="<|bos|>", eos_token="<|eos|>"
    )
    assert found["tokenizer.ggml.pre"] == name
    texts = [*TEXTS, "a <think>b</think> c", "<|bos|>x <|eos|>\n"]
    require_equal(
        texts,
        llama_cpp_ids(engine, tmp_path, texts),
        [tokenizer.encode(text).ids for text in texts],
    )


def pieces_as_json(*, leading_space: bool) -> dict:
    """The small SentencePiece model as transformers saves one to tokenizer.json."""
    pieces = read_model((DATA / "tiny_sentencepiece.model").read_bytes()).pieces
    ids = {piece.text: i for i, piece in enumerate(pieces)}
    merges = [
        (-piece.score, ids[piece.text[:at]], ids[piece.text[at:]], piece.text, at)
        for piece in pieces
        if piece.kind == 1
        for at in range(1, len(piece.text))
        if piece.text[:at] in ids and piece.text[at:] in ids
    ]
    steps = [normalizers.Prepend("▁")] if leading_space else []
    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=[(text[:at], text[at:]) for _, _, _, text, at in sorted(merges)],
            unk_token="<unk>", fuse_unk=True, byte_fallback=True,
        )
    )  # fmt: skip
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("<start_of_turn>", special=False, normalized=False)])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return json.loads(tokenizer.to_str())


@pytest.mark.parametrize("leading_space", [True, False])
def test_byte_fallback(tmp_path, engine, leading_space):
    tmp_path.joinpath("tokenizer.json").write_text(
        json.dumps(pieces_as_json(leading_space=leading_space))
    )
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rules = Vocabulary.SENTENCEPIECE_FIRST
    found = converted(tmp_path, rules, 608, bos_token="<s>", eos_token="</s>")
    assert found["tokenizer.ggml.model"] == "llama"
    assert found.get("tokenizer.ggml.add_space_prefix", True) is leading_space
    require_equal(
        TEXTS, llama_cpp_ids(engine, tmp_path), [tokenizer.encode(text).ids for text in TEXTS]
    )
    if leading_space:  # and so as SentencePiece itself does, but for the first token
        expected = json.loads((DATA / "tiny_sentencepiece.json").read_text("utf-8"))
        require_equal(TEXTS, llama_cpp_ids(engine, tmp_path), [[1, *ids] for _, ids in expected])


def test_sentencepiece(tmp_path, engine):
    tmp_path.joinpath("tokenizer.model").write_bytes(
        (DATA / "tiny_sentencepiece.model").read_bytes()
    )
    found = converted(tmp_path, Vocabulary.SENTENCEPIECE_FIRST, 640, bos_token="<s>")
    assert found["tokenizer.ggml.tokens"].items[639] == "[PAD639]"
    expected = json.loads((DATA / "tiny_sentencepiece.json").read_text("utf-8"))
    assert [text for text, _ in expected] == list(TEXTS)
    require_equal(TEXTS, llama_cpp_ids(engine, tmp_path), [[1, *ids] for _, ids in expected])


BEYOND_LLAMA_CPP = {"안녕하세요 세계", "नमस्ते दुनिया", "កាន់តែពិសេសអាចខលចេញ"}
"""Texts whose accents or syllables llama.cpp takes apart otherwise than BERT's normalizer."""


@pytest.mark.parametrize("lower", [True, False])
def test_wordpiece(tmp_path, engine, lower):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.WordPieceTrainer(
            vocab_size=1200,
            special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
            show_progress=False,
        ),
    )
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )  # fmt: skip
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    names = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    found = converted(
        tmp_path, Vocabulary.WORDPIECE, 1300, **{f"{k}_token": v for k, v in names.items()}
    )
    assert found["tokenizer.ggml.normalizer.lowercase"] is lower
    texts = [text for text in TEXTS if text not in BEYOND_LLAMA_CPP]
    require_equal(
        texts,
        llama_cpp_ids(engine, tmp_path, texts),
        [tokenizer.encode(text).ids for text in texts],
    )
