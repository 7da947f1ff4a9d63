"""How far a model's distributions lie from a reference's: Kullback-Leibler divergence and others.

With p of the reference and q of the model, KL(p || q) = sum p log(p/q) is added up here as
sum (p log(p/q) - p + q): the same, as both sum to 1, but no term is negative, and an error in what
was kept of log p counts by how much p and q differ instead of in full.

A compact reference knows p only of the tokens it kept. The divergence is then that of the kept
tokens and of the rest taken as one token, which by the log sum inequality is no more than all of
it (`kl_least`); and what the rest adds within itself, P sum p' log(p'/q') with p', q' the
probabilities within the rest and P its share, is estimated from the tokens drawn by p' as the mean
of P (r - 1 - log r), r = q'/p': never negative, and right in the mean because that of r is 1. What
is drawn at one position does not depend on another's: the standard error of a mean over positions
holds what drawing adds to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .kept import Doubles, Ids, ReferenceRows, Singles, not_numbers
from .logprobs import likeliest

_SLICE_BYTES = 8 * 1024**2
"""Float64 numbers of an exact reference worked on at once."""
_LEAST_REST = 1e-6
"""What the model leaves beside the kept tokens is known by subtracting; less than this is not told
from the rounding of float32 exponentials."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Diverged:
    """A model's distributions against the reference's, one number for each row, float64.

    `kl` and `kl_least` are in nats; `agrees` is 1 where both put the same token first, else 0;
    `p_change` the model's probability of the token that really follows less the reference's,
    `reference_nll` the reference's negative log-likelihood of it, in nats.
    """

    kl: Doubles
    kl_least: Doubles
    agrees: Doubles
    p_change: Doubles
    reference_nll: Doubles


def diverge(
    rows: ReferenceRows, block: Singles, log_normalizers: Doubles, targets: Ids
) -> Diverged:
    """Holds a block of logits (rows, vocabulary) against the reference at the same positions.

    `log_normalizers` are float64, of shape (rows,): the logarithm of the sum of exponentials of
    each row; `targets` the tokens that really follow. Raises BackendError where the outcome is no
    number: logits that are infinite or none.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        kl, least = (_exact if rows.ids is None else _compact)(rows, block, log_normalizers)
        log_q = _at(block, np.asarray(targets)[:, None])[:, 0] - log_normalizers
        p_change = np.exp(log_q) - np.exp(rows.target_log_p)
    agrees = (likeliest(block) == rows.best).astype(np.float64)
    if not all(np.isfinite(numbers).all() for numbers in (kl, least, log_q, rows.target_log_p)):
        raise not_numbers()
    return Diverged(
        kl=kl,
        kl_least=least,
        agrees=agrees,
        p_change=p_change,
        reference_nll=-rows.target_log_p,
    )


def _compact(
    rows: ReferenceRows, block: Singles, log_normalizers: Doubles
) -> tuple[Doubles, Doubles]:
    assert rows.ids is not None
    assert rows.rest_log_p is not None
    assert rows.drawn_ids is not None
    assert rows.drawn_log_p is not None
    log_p = rows.log_p.astype(np.float64, copy=False)
    log_q = _at(block, rows.ids) - log_normalizers[:, None]
    p, q = np.exp(log_p), np.exp(log_q)
    rest_p = np.exp(rows.rest_log_p)
    rest_q = 1.0 - q.sum(axis=1)
    known = rest_q >= _LEAST_REST
    rest_q = np.where(known, rest_q, 1.0)
    least = _terms(p, log_p, q, log_q).sum(axis=1)
    least += np.where(known, _terms(rest_p, rows.rest_log_p, rest_q, np.log(rest_q)), 0.0)
    if not rows.drawn_ids.shape[1]:
        return least, least
    # Within the rest, or where its share is not known, of probabilities as they are: then one
    # estimate stands for both what is within the rest and its share, again without bias.
    scale = np.where(known, rows.rest_log_p - np.log(rest_q), 0.0)
    drawn_q = _at(block, rows.drawn_ids) - log_normalizers[:, None]
    log_r = drawn_q - rows.drawn_log_p + scale[:, None]
    within = rest_p * np.maximum(np.expm1(log_r) - log_r, 0.0).mean(axis=1)
    return least + np.where(rest_p > 0, within, 0.0), least


def _exact(
    rows: ReferenceRows, block: Singles, log_normalizers: Doubles
) -> tuple[Doubles, Doubles]:
    kl = np.empty(len(block))
    slice_rows = max(1, _SLICE_BYTES // (8 * block.shape[1]))
    for start in range(0, len(block), slice_rows):
        part = slice(start, start + slice_rows)
        log_q = block[part] - log_normalizers[part, None]
        log_p = rows.log_p[part].astype(np.float64)
        kl[part] = _terms(np.exp(log_p), log_p, np.exp(log_q), log_q).sum(axis=1)
    return kl, kl


def _terms(p: Doubles, log_p: Doubles, q: Doubles, log_q: Doubles) -> Doubles:
    """The terms p log(p/q) - p + q; what p never gives costs what q gives it, and no more."""
    terms: Doubles = np.where(p > 0, p * (log_p - log_q) - p, 0.0) + q
    return np.maximum(terms, 0.0, out=terms)  # rounding alone takes one below


def _at(block: Singles, ids: Ids) -> Doubles:
    """The logits of some tokens of each row, (rows, tokens), as float64."""
    where = np.asarray(ids, dtype=np.intp)
    found: npt.NDArray[np.float32] = np.take_along_axis(block, where, axis=1)
    return found.astype(np.float64)
