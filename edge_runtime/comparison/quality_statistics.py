"""What the scores of one artifact say, each figure with its standard error.

The formulas are those of llama-perplexity (tools/perplexity/perplexity.cpp in llama.cpp), so that
the numbers can be laid beside its own; the scored tokens are taken as independent, as it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .. import statistics
from ..basis import Unavailable
from ..scores import Divergence, Scores
from .differences import mean_and_error, paired_differences
from .rows import Estimate, Quality

LEAST_TOKENS = 10
"""Below this many scored tokens neither a mean nor its error is worth a figure."""
_MOST_NLL = 500.0
"""No model gives a token so little: beyond it a perplexity is no number of 64 bits."""


def quality_of(scores: Scores) -> Quality | Unavailable:
    """The figures of some scores; Unavailable where too few tokens were scored.

    Raises FormatError when the samples are damaged.
    """
    nll = scores.nll.values()
    if len(nll) < LEAST_TOKENS:
        return Unavailable(
            reason=f"only {len(nll)} tokens were scored, {LEAST_TOKENS} are needed",
            remedy="Give a longer text, or prompts with longer answers.",
        )
    surprise, error = mean_and_error(nll)
    if not surprise <= _MOST_NLL:
        return Unavailable(reason=f"a mean loss of {surprise:.3g} nats is no model's")
    perplexity = math.exp(surprise)
    found = Estimate(value=perplexity, standard_error=perplexity * error)
    if scores.divergence is None:
        return Quality(perplexity=found, scored_tokens=len(nll))
    return _against_reference(found, nll, scores.divergence)


def _against_reference(
    perplexity: Estimate, nll: Sequence[float], divergence: Divergence
) -> Quality:
    kl, change = sorted(divergence.kl.values()), divergence.p_change.values()
    mean_kl = estimate(kl)
    least = statistics.mean(divergence.kl_least.values())
    agrees = statistics.mean(divergence.agrees.values())
    mean_square, error = mean_and_error([x * x for x in change])
    rms = math.sqrt(mean_square)
    lost = paired_differences(nll, divergence.reference_nll.values())
    return Quality(
        perplexity=perplexity,
        kl=mean_kl,
        kl_median=statistics.median(kl),
        kl_p99=statistics.percentile(kl, 99),
        kl_max=kl[-1],
        kl_tail_share=(
            min(max(1 - least / mean_kl.value, 0.0), 1.0) if mean_kl.value > 0 else None
        ),
        top1_agreement=Estimate(
            value=agrees,
            standard_error=math.sqrt(max(agrees * (1 - agrees), 0.0) / (len(kl) - 1)),
        ),
        p_change_rms=Estimate(value=rms, standard_error=0.5 / rms * error if rms else 0.0),
        p_change_mean=estimate(change),
        ln_ppl_ratio=estimate(lost),
        scored_tokens=len(kl),
    )


def estimate(samples: Sequence[float]) -> Estimate:
    """The mean of at least two samples with its standard error."""
    value, error = mean_and_error(samples)
    return Estimate(value=value, standard_error=error)
