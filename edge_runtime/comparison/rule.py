"""A gate's rules as typed: `tg128 < -5%`, `kl > 0.05`, and what they mean.

A rule says what must not be. With `%` it is about the change from the baseline file's row of the
same name, without about the new file's own value, in SI units or with a unit of its own.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError
from ..units import parse_bytes, parse_duration_s

Operator = Literal["<", "<=", ">", ">="]

METRICS = {
    "kl": "nats",
    "kl_p99": "nats",
    "ppl": "",
    "top1": "share",
    "size": "bytes",
    "memory": "bytes",
    "ttft": "s",
    "j/token": "J",
}
"""The metrics that are no workload's name, and the units of their values."""

_OF_A_WORKLOAD = "tok/s"
_OPERATORS: dict[str, Operator] = {"<": "<", "<=": "<=", ">": ">", ">=": ">="}
_LONGEST = 100
_RULE = re.compile(r"\s*([A-Za-z][^<>=]*?)\s*(<=|>=|<|>)\s*([^<>=]+?)\s*")
_NUMBER = re.compile(r"([+-]?)(\d{1,20}(?:\.\d{0,20})?(?:[eE][+-]?\d{1,3})?)\s*(%?)", re.ASCII)
_WAY_OUT = 'Write it like "tg128 < -5%", "kl > 0.05" or "size > +2%".'


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What must not be: `metric` beyond `threshold`.

    `metric` is one of `METRICS` or a workload's name. A `relative` threshold is a share of the
    baseline's value, -0.05 for "-5%".
    """

    text: str
    metric: str
    operator: Operator
    threshold: float
    relative: bool

    @property
    def unit(self) -> str:
        """The unit of the metric's values."""
        return METRICS.get(self.metric, _OF_A_WORKLOAD)

    def beyond(self, value: float) -> bool:
        """Whether a value is what the rule forbids."""
        if self.operator == "<":
            return value < self.threshold
        if self.operator == "<=":
            return value <= self.threshold
        return value > self.threshold if self.operator == ">" else value >= self.threshold


def parse_rule(text: str) -> Rule:
    """Reads a rule: `METRIC OP VALUE[%]`, OP one of < <= > >=.

    Sizes may be written like 2GiB, times like 500ms. Raises UsageError for anything else, and for a
    rule that could never, or would always, hold.
    """
    if len(text) > _LONGEST:
        raise _unread(text, "It is too long.")
    match = _RULE.fullmatch(text.replace("\N{MINUS SIGN}", "-"))
    if match is None:
        raise _unread(text, "It has no metric, comparison and value.")
    metric, operator, value = " ".join(match[1].split()), _OPERATORS[match[2]], match[3]
    metric = metric.lower() if metric.lower() in METRICS else metric
    number = _NUMBER.fullmatch(value)
    if number is not None and number[3]:
        return _relative(text, metric, operator, number)
    threshold = float(number[1] + number[2]) if number else _with_unit(text, metric, value)
    if not math.isfinite(threshold):
        raise _unread(text, f"{value} is too large a number.")
    if threshold < 0:
        raise _unread(text, f"No {metric} is negative; a change is written with %.")
    if metric == "top1" and threshold > 1:
        raise _unread(text, "top1 is a share, 1 at most: write 0.98 for 98 of 100.")
    return Rule(
        text=text.strip(), metric=metric, operator=operator, threshold=threshold, relative=False
    )


def _relative(text: str, metric: str, operator: Operator, number: re.Match[str]) -> Rule:
    share = float(number[1] + number[2]) / 100
    if not math.isfinite(share):
        raise _unread(text, f"{number[0]} is too large a number.")
    falls = operator in {"<", "<="}
    if not number[1] and share and (falls or metric == "top1"):
        signed = f"-{number[0]}" if falls else f"+{number[0]}"
        absolute = f" {metric} {operator} {share:g} is about the value." if metric == "top1" else ""
        raise _unread(
            text, f"% is a change, and needs its sign: {metric} {operator} {signed}.{absolute}"
        )
    if falls and share <= -1:
        raise _unread(text, "Nothing falls by more than all of it.")
    return Rule(text=text.strip(), metric=metric, operator=operator, threshold=share, relative=True)


def _with_unit(text: str, metric: str, value: str) -> float:
    try:
        if METRICS.get(metric) == "bytes":
            return parse_bytes(value)
        if METRICS.get(metric) == "s":
            return parse_duration_s(value)
    except UsageError as error:
        raise _unread(text, error.fact) from None
    raise _unread(text, f"{value[:40]!r} is no number.")


def _unread(text: str, cause: str) -> UsageError:
    return UsageError(f"{text[:_LONGEST]!r} is no rule.", cause=cause, way_out=_WAY_OUT)
