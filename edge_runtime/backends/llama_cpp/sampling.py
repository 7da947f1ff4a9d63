"""The engine's own sampler chain, and grammars on top of it.

A grammar is kept outside the chain: the engine ends the process when a grammar meets a token it
forbids or runs out of allowed tokens, so every token is shown to the grammar first and a dead end
becomes an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...errors import BackendError, UsageError
from .. import Sampling
from ..generation import MAX_SEED, check_sampling

if TYPE_CHECKING:
    from .session import LlamaCppSession


class ChainSampler:
    """Samples with the engine's chain from a session's latest logits."""

    def __init__(self, session: LlamaCppSession, sampling: Sampling) -> None:
        check_sampling(sampling)
        self._session = session
        self._lib = session.native.lib
        self._chain: int | None = _chain(session, sampling)
        self._sample = self._lib.llama_sampler_sample

    def sample(self) -> int:
        """Chooses the next token and accepts it."""
        if self._chain is None:
            raise BackendError("This sampler is closed.")
        token: int = self._sample(self._chain, self._session.ready_context(), -1)
        return token

    def close(self) -> None:
        """Frees the chain; safe to call twice."""
        chain, self._chain = self._chain, None
        if chain is not None:
            self._lib.llama_sampler_free(chain)

    def __del__(self) -> None:
        # An abandoned stream must not leak; during interpreter exit the library may be gone.
        with contextlib.suppress(AttributeError, TypeError):
            self.close()


class GrammarSampler(ChainSampler):
    """Samples only tokens a grammar allows.

    The chain chooses first and the grammar judges that one token; only when it says no are all
    tokens judged and the chain chooses again among the allowed ones.
    """

    def __init__(self, session: LlamaCppSession, sampling: Sampling, grammar: str) -> None:
        import numpy as np

        self._grammar: int | None = None
        super().__init__(session, sampling)
        self._np = np
        self._kind = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        self._candidates = np.empty(session.vocabulary_tokens, self._kind)
        self._ids = np.arange(session.vocabulary_tokens, dtype=np.int32)
        try:
            self._grammar = _grammar(session, grammar)
        except BaseException:
            self.close()
            raise

    def sample(self) -> int:
        """Chooses the next token the grammar allows and accepts it."""
        if self._chain is None or self._grammar is None:
            raise BackendError("This sampler is closed.")
        self._fill()
        token = self._choose(self._candidates)
        if not self._allowed(self._np.array([(token, 1.0, 0.0)], self._kind)).any():
            self._fill()
            kept = self._candidates[self._allowed(self._candidates)]
            if not kept.size:
                raise BackendError(
                    "The grammar allows no token of this model here.",
                    cause="Its vocabulary cannot spell what the grammar asks for.",
                    way_out="Loosen the grammar.",
                )
            token = self._choose(kept)
        self._lib.llama_sampler_accept(self._grammar, token)
        self._lib.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Frees the grammar and the chain; safe to call twice."""
        grammar, self._grammar = self._grammar, None
        if grammar is not None:
            self._lib.llama_sampler_free(grammar)
        super().close()

    def _fill(self) -> None:
        self._candidates["id"] = self._ids
        self._candidates["logit"] = self._session.logits_view()
        self._candidates["p"] = 0.0

    def _array(self, candidates: Any) -> Any:
        pointer = ctypes.cast(candidates.ctypes.data, self._lib.llama_token_data_p)
        return self._lib.llama_token_data_array(pointer, len(candidates), -1, False)

    def _choose(self, candidates: Any) -> int:
        array = self._array(candidates)
        self._lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise BackendError("llama.cpp's sampler chose nothing.")
        token: int = array.data[array.selected].id
        return token

    def _allowed(self, candidates: Any) -> Any:
        array = self._array(candidates)
        self._lib.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return candidates["logit"] > -self._np.inf


def make_sampler(session: LlamaCppSession, sampling: Sampling) -> ChainSampler:
    """The sampler for these settings. Raises UsageError for impossible ones."""
    check_sampling(sampling)
    grammar = sampling.grammar
    if sampling.json_schema is not None:
        grammar = _grammar_of_schema(sampling.json_schema)
    if grammar is None:
        return ChainSampler(session, sampling)
    return GrammarSampler(session, sampling, grammar)


def _chain(session: LlamaCppSession, sampling: Sampling) -> int:
    lib = session.native.lib
    parts = []
    if sampling.ignore_eos:
        ends = session.native.vocabulary.end_tokens()
        bias = (lib.llama_logit_bias * max(len(ends), 1))(
            *(lib.llama_logit_bias(token, float("-inf")) for token in ends)
        )
        parts.append(lib.llama_sampler_init_logit_bias(session.vocabulary_tokens, len(ends), bias))
    penalized = (
        sampling.repeat_penalty != 1.0
        or sampling.frequency_penalty != 0.0
        or sampling.presence_penalty != 0.0
    )
    if penalized and sampling.penalty_last_tokens:
        parts.append(
            lib.llama_sampler_init_penalties(
                session.vocabulary_tokens,
                sampling.penalty_last_tokens,
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            )
        )
    if sampling.temperature == 0.0:
        parts.append(lib.llama_sampler_init_greedy())
    else:
        if sampling.top_k:
            parts.append(lib.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1.0:
            parts.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0.0:
            parts.append(lib.llama_sampler_init_min_p(sampling.min_p, 1))
        if sampling.temperature != 1.0:
            parts.append(lib.llama_sampler_init_temp(sampling.temperature))
        seed = sampling.seed if sampling.seed is not None else secrets.randbelow(MAX_SEED)
        parts.append(lib.llama_sampler_init_dist(seed))
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    for part in parts:
        lib.llama_sampler_chain_add(chain, part)  # the chain owns and frees it
    pointer: int = chain
    return pointer


def _grammar(session: LlamaCppSession, text: str) -> int:
    lib = session.native.lib
    vocabulary = session.native.vocabulary.pointer
    with _native_stderr() as printed:
        sampler = lib.llama_sampler_init_grammar(
            vocabulary, text.encode("utf-8", "replace"), b"root"
        )
    if not sampler:
        told = " ".join(printed).partition("error parsing grammar:")[2].strip().partition("\n")[0]
        raise UsageError(
            "The grammar is no valid GBNF.",
            cause=f"llama.cpp says: {told[:200]}." if told else "It has no rule named root.",
        )
    pointer: int = sampler
    return pointer


_ENFORCED = frozenset(
    ("$defs", "$ref", "additionalProperties", "allOf", "anyOf", "const", "definitions", "enum",
     "format", "items", "maxItems", "maxLength", "minItems", "minLength", "oneOf", "pattern",
     "prefixItems", "properties", "required", "type")
)  # fmt: skip
"""Keywords of JSON schema that llama-cpp-python's converter turns into a grammar."""
_COMMENTS = frozenset(
    ("$comment", "$id", "$schema", "default", "deprecated", "description", "examples", "readOnly",
     "title", "writeOnly")
)  # fmt: skip
_NAMED_SCHEMAS = ("$defs", "definitions", "properties")


def _ignored_keywords(schema: object) -> set[str]:
    """The keywords of a schema, at any depth, that the converter would silently leave out."""
    if isinstance(schema, list):
        return set().union(*map(_ignored_keywords, schema))
    if not isinstance(schema, dict):
        return set()
    found = set(schema) - _ENFORCED - _COMMENTS
    for keyword, value in schema.items():
        if keyword in _NAMED_SCHEMAS and isinstance(value, dict):
            found |= _ignored_keywords(list(value.values()))
        elif keyword not in _COMMENTS and keyword not in {"const", "enum"}:
            found |= _ignored_keywords(value)
    return found


def _grammar_of_schema(schema: str) -> str:
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        parsed = json.loads(schema)
        if not isinstance(parsed, dict | bool):
            raise UsageError("The JSON schema is no object.")
        if ignored := sorted(_ignored_keywords(parsed)):
            raise UsageError(
                f"The JSON schema uses {', '.join(ignored)}, which cannot be enforced.",
                cause="Only what a grammar can express is: the answer would ignore the rest.",
                way_out="Leave it out and check the answer afterwards.",
            )
        grammar: str = json_schema_to_gbnf(schema)
    except UsageError:
        raise
    except Exception as error:  # the converter raises whatever a strange schema leads it to
        raise UsageError(
            "The JSON schema cannot be turned into a grammar.",
            cause=f"{type(error).__name__}: {error}.",
        ) from error
    return grammar


@contextlib.contextmanager
def _native_stderr() -> Iterator[list[str]]:
    """Keeps what C code writes to stderr itself; the grammar parser reports no other way.

    For these microseconds the process's stderr goes to a temporary file, for all threads.
    """
    printed: list[str] = []
    try:
        saved = os.dup(2)
    except OSError:  # a process without a stderr has nothing to protect
        yield printed
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield printed
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            printed.append(file.read(65536).decode("utf-8", "replace"))
