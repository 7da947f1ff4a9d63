"""What a system leaves for an app: by the first rule that fits, and nothing where none does."""

from __future__ import annotations

import datetime as dt

import pytest
from device_texts import CARD, GOOD

from profiles.device_files import parse_device
from profiles.os_memory import parse_rules, usable_memory


def parse(text, file="board.toml"):
    return parse_device(text.encode(), file)


RULES = """
as_of = "2026-11-22"
[[rules]]
os = ["Linux"]
ram = "1 to 4 GB"
share = { value = "50 to 60 %", kind = "measured", source = "s" }
taken = { value = "1 to 2.5 GB", kind = "derived", source = "t", note = "idle" }
[[rules]]
os = ["Android"]
share = { value = "40 %", kind = "estimated", source = "t", note = "a guess", as_of = 2026-01-01 }
[[rules]]
own_memory = true
share = { value = "90 to 95 %", kind = "measured", source = "s" }
[[rules]]
os = ["iOS"]
entitled = false
share = { value = "50 %", kind = "measured", source = "s" }
[sources]
s = "https://example.org/s"
t = "https://example.org/t"
"""


@pytest.fixture
def invented_rules(monkeypatch):
    found = parse_rules(RULES)
    monkeypatch.setattr("profiles.os_memory.rules", lambda: found)


def test_what_a_system_leaves_is_the_smaller_of_share_and_rest(invented_rules):
    board = parse(GOOD)
    left = usable_memory(board, 4 << 30)
    assert (left.low, left.high) == (1.5 * 2**30, pytest.approx(2.4 * 2**30))
    both = ("derived", "https://example.org/s ; https://example.org/t", "idle")
    assert (left.kind, left.source, left.note) == both, "either may be the one that counts"
    assert usable_memory(board) == left, "the smallest size counts where none is named"
    assert usable_memory(board, 8 << 30) is None, "no rule is no figure"
    assert usable_memory(board, 0) is None
    card = usable_memory(parse(CARD, "card.toml"), accelerator="gpu")
    assert (card.low, card.high) == (pytest.approx(21.6 * 2**30), pytest.approx(22.8 * 2**30))


def test_several_systems_give_the_range_over_all_and_the_lesser_certainty(invented_rules):
    both = parse(GOOD.replace('os = ["Linux"]', 'os = ["Linux", "Android 15"]'))
    left = usable_memory(both, 4 << 30)
    assert (left.low, left.high) == (1.5 * 2**30, pytest.approx(2.4 * 2**30))
    assert (left.kind, left.as_of) == ("estimated", dt.date(2026, 1, 1))
    assert left.source == "https://example.org/s ; https://example.org/t"


@pytest.mark.parametrize(
    "only",
    ['accelerators = ["gpu"]', 'classes = ["mobile"]', 'makers = ["X"]', 'gpu_names = ["Radeon"]'],
)
def test_a_rule_counts_only_for_what_it_names(only, monkeypatch):
    first = f'os = ["Linux"]\n{only}\nshare = {{ value = "10 %", kind = "measured", source = "s" }}'
    found = parse_rules(RULES.replace("[[rules]]", f"[[rules]]\n{first}\n[[rules]]", 1))
    monkeypatch.setattr("profiles.os_memory.rules", lambda: found)
    assert usable_memory(parse(GOOD), 4 << 30).low > 1 << 30


def test_an_entitlement_is_asked_for(invented_rules):
    phone = parse(GOOD.replace('os = ["Linux"]', 'os = ["iOS"]'))
    assert usable_memory(phone, 4 << 30, entitled=False).value == 2 << 30
    assert usable_memory(phone, 4 << 30) is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"1 to 4 GB"', '"1 to 4 GB/s"', "is a bandwidth: write GB"),
        ('"40 %"', '"140 %"', "a share lies between 1 and 100 %"),
        (', note = "a guess"', "", "note is missing"),
        ("entitled", "entiteld", 'is "entitled" meant?'),
        ('share = { value = "50 %", kind = "measured", source = "s" }\n', "", "and so is taken"),
    ],
)
def test_faulty_rules_are_refused(old, new, said):
    with pytest.raises(ValueError, match=r"^os\.toml: ") as caught:
        parse_rules(RULES.replace(old, new))
    assert said in str(caught.value)
