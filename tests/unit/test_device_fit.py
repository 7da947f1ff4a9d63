"""What reads on a device: the best level of each model, the largest first, and what just misses."""

from __future__ import annotations

import json

import projections
import pytest
from projections import by_the_roof, the_roof, with_bandwidth

from edge_runtime.artifact import LEVELS, ModelShape
from edge_runtime.projection import device_fit, rows
from edge_runtime.projection.device_fit import FIT_LEVELS, fit_shapes
from edge_runtime.projection.rows import Asked
from edge_runtime.verdict import Target, VerdictKind
from profiles import model
from profiles.devices import device

pytestmark = pytest.mark.usefixtures("the_roof")
__all__ = ["the_roof"]

NAMES = ("smollm2-135m", "qwen2.5-0.5b", "qwen2.5-1.5b", "llama-3.2-3b", "llama-3.1-8b")


def shapes():
    return [ModelShape.from_config(model(name).config, name=name) for name in NAMES]


def fit(on, tokens_per_s: float = 20.0, levels=FIT_LEVELS):
    asked = Asked(target=Target(decode_tokens_per_s=tokens_per_s))
    return fit_shapes(shapes(), on, asked, levels=levels)


def test_levels_are_tried_from_the_most_bits_down():
    order = list(LEVELS)
    assert list(FIT_LEVELS) == sorted(FIT_LEVELS, key=order.index)


def test_the_largest_model_that_reads_comes_first_at_the_most_bits_that_read():
    # 100 GB/s, of which half: 1.5B reads at 8 bits (30 tok/s, 22 at least), 3B at none.
    report = fit(with_bandwidth("raspberry-pi-5-16gb", 100))
    viable = [(row.row.model, row.row.level) for row in report.viable]
    assert viable[0] == ("qwen2.5-1.5b", "Q8_0")
    sizes = [row.row.parameters for row in report.viable]
    assert sizes == sorted(sizes, reverse=True)
    assert [row.row.model for row in report.borderline] == ["llama-3.2-3b"]
    assert report.exit_code == 0


def test_fewer_bits_are_taken_only_where_more_do_not_read():
    slower = fit(with_bandwidth("raspberry-pi-5-16gb", 60))
    levels = {row.row.model: row.row.level for row in slower.viable}
    assert levels["qwen2.5-0.5b"] == "Q8_0"
    assert levels["qwen2.5-1.5b"] not in ("Q8_0", "Q6_K")
    limit = slower.asked.target.decode_tokens_per_s
    for row in slower.viable:
        assert row.projection.decode_tokens_per_s.low >= limit


def test_what_misses_stands_nearest_first_with_its_reason():
    asked = Asked(target=Target(decode_tokens_per_s=20.0))
    report = fit_shapes(reversed(shapes()), device("raspberry-pi-5-8gb"), asked)
    assert report.misses
    rates = [row.projection.decode_tokens_per_s.value for row in report.misses]
    assert rates == sorted(rates, reverse=True)
    assert all(row.verdict.kind is VerdictKind.NOT_VIABLE for row in report.misses)
    assert all(row.verdict.cause for row in report.misses)
    names = {row.row.model for row in (*report.rows, *report.misses)}
    assert names == set(NAMES)


def test_what_does_not_fit_at_four_bits_is_not_tried_at_eight(monkeypatch):
    tried = []

    def count(planned, *arguments, **options):
        tried.append((planned.shape.name, planned.level))
        return by_the_roof(planned, *arguments, **options)

    monkeypatch.setattr(rows, "project", count)
    report = fit(with_bandwidth("raspberry-pi-4-1gb", 4000), tokens_per_s=1)
    missed = {row.row.model: row for row in report.misses}
    assert [level for name, level in tried if name == "llama-3.1-8b"] == ["Q4_0"]
    assert missed["llama-3.1-8b"].verdict.cause.startswith("memory: ")


@pytest.mark.parametrize("gb_per_s", [10, 14, 20, 30, 44, 64, 90])
def test_what_bytes_alone_rule_out_is_not_planned_and_changes_no_answer(gb_per_s, monkeypatch):
    # As near to the roof as anything gets: the low end reaches 98 % of it.
    monkeypatch.setattr(projections, "SHARE", 1.3)
    on = with_bandwidth("raspberry-pi-5-16gb", gb_per_s)
    quick = fit(on)
    monkeypatch.setattr(device_fit, "_MIXTURE", 1e9)
    assert quick == fit(on)


def test_nothing_known_is_neither_a_yes_nor_a_no():
    report = fit(with_bandwidth("raspberry-pi-5-16gb", None))
    assert not report.viable
    assert report.exit_code == 3
    assert all(not row.is_known for row in report.borderline)
    # Memory is known all the same.
    small = fit(with_bandwidth("raspberry-pi-4-1gb", None))
    assert "llama-3.1-8b" in {row.row.model for row in small.misses}


def test_the_levels_asked_for_are_the_only_ones():
    report = fit(device("rtx4090"), levels=("Q4_0",))
    assert {row.row.level for row in report.rows} == {"Q4_0"}
    assert report.to_json()["levels"] == ["Q4_0"]


def test_the_document_holds_each_model_once():
    document = json.loads(json.dumps(fit(device("raspberry-pi-5-8gb")).to_json(), allow_nan=False))
    assert document["device"] == "raspberry-pi-5-8gb"
    listed = [row["model"] for row in (*document["rows"], *document["misses"])]
    assert sorted(listed) == sorted(NAMES)
    assert {row["verdict"] for row in document["misses"]} == {"NOT VIABLE"}
