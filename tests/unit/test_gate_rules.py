"""A gate's rules as typed: what is read, and what is refused with its cause."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.comparison.rule import Rule, parse_rule
from edge_runtime.errors import UsageError


@pytest.mark.parametrize(
    ("typed", "metric", "operator", "threshold", "relative"),
    [
        ("tg128 < -5%", "tg128", "<", -0.05, True),
        ("  pp512<=-2.5 % ", "pp512", "<=", -0.025, True),
        ("tg128 @ d4096 < \u22125%", "tg128 @ d4096", "<", -0.05, True),
        ("kl > 0.05", "kl", ">", 0.05, False),
        ("KL > +10%", "kl", ">", 0.10, True),
        ("kl_p99 >= 1e-1", "kl_p99", ">=", 0.1, False),
        ("size > 2%", "size", ">", 0.02, True),
        ("size > 2GiB", "size", ">", 2 * 1024**3, False),
        ("memory > 1000000", "memory", ">", 1e6, False),
        ("ttft > 500ms", "ttft", ">", 0.5, False),
        ("J/token > 0%", "j/token", ">", 0.0, True),
        ("tg128 < 0%", "tg128", "<", 0.0, True),
        ("top1 < 0.98", "top1", "<", 0.98, False),
        ("top1 < -1%", "top1", "<", -0.01, True),
        ("tg128 > +400%", "tg128", ">", 4.0, True),
    ],
)
def test_rules_are_read(
    typed: str, metric: str, operator: str, threshold: float, relative: bool
) -> None:
    rule = parse_rule(typed)
    assert (rule.metric, rule.operator, rule.relative) == (metric, operator, relative)
    assert rule.threshold == pytest.approx(threshold)
    assert rule.text == typed.strip()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", "no metric"),
        ("kl", "no metric"),
        ("kl 0.05", "no metric"),
        ("kl = 0.05", "no metric"),
        ("< 5", "no metric"),
        ("kl > ", "no number"),
        ("kl > 1 < 2", "no metric"),
        ("kl > five", "no number"),
        ("kl > nan", "no number"),
        ("kl > inf%", "no number"),
        ("kl > 1e400", "too large"),
        ("kl > 1e400%", "too large"),
        ("kl > -0.05", "negative"),
        ("size > 2 bushels", "not a size"),
        ("ttft > 3 days", "not a duration"),
        ("tg128 < 5%", "needs its sign: tg128 < -5%"),
        ("top1 < 98%", "top1 < 0.98 is about the value"),
        ("top1 > 98%", r"needs its sign: top1 > \+98%"),
        ("top1 < 98", "a share, 1 at most"),
        ("tg128 < -100%", "more than all"),
        ("kl > " + "1" * 5000, "too long"),
        ("tg128 < \u0665", "no number"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_cause(typed: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_rule(typed)
    assert caught.value.way_out
    assert len(str(caught.value)) < 400


@given(st.text(max_size=120))
def test_no_text_does_worse_than_be_refused(typed: str) -> None:
    try:
        rule = parse_rule(typed)
    except UsageError:
        return
    assert math.isfinite(rule.threshold)


def test_rules_know_their_units() -> None:
    units = {name: parse_rule(f"{name} > 1").unit for name in ("kl", "tg128", "size", "ppl")}
    assert units == {"kl": "nats", "tg128": "tok/s", "size": "bytes", "ppl": ""}
    assert Rule(text="", metric="kl", operator=">=", threshold=1.0, relative=False).beyond(1.0)
