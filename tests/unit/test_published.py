"""The shipped table of published measurements, and how a table of that form is read."""

import csv
import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import profiles
from profiles.devices import devices
from profiles.published import (
    ACCELERATORS,
    COLUMNS,
    CONDITIONS,
    MODEL_TYPES,
    PublishedRow,
    published_rows,
    read_published,
)

ROW = {
    "device": "rpi5",
    "engine": "llama.cpp",
    "accelerator": "cpu",
    "api": "cpu",
    "model": "Llama 3.2 3B",
    "model_type": "dense",
    "parameters": "3.21e+09",
    "level": "Q4_K_M",
    "weights_bytes": "2007900000",
    "depth_tokens": "0",
    "decode_tokens_per_s": "5.5",
    "conditions": "power-meter:wall size-computed",
    "source": "https://example.org/a",
    "source_id": "EX",
}


def lines(**changes: str) -> list[str]:
    cells = {**ROW, **changes}
    return [",".join(COLUMNS), ",".join(f'"{cells.get(column, "")}"' for column in COLUMNS)]


def read(**changes: str) -> PublishedRow:
    (row,) = read_published(lines(**changes), "a.csv")
    return row


def test_a_row_is_read_with_absent_values_apart_from_zero() -> None:
    row = read()
    assert row.decode_tokens_per_s == 5.5
    assert row.weights_bytes == 2_007_900_000
    assert row.depth_tokens == 0
    assert row.prompt_tokens is None
    assert row.prefill_tokens_per_s is None
    assert row.conditions == ("power-meter:wall", "size-computed")


def test_a_condition_is_found_whatever_its_value() -> None:
    row = read()
    assert row.has("power-meter")
    assert row.has("size-computed")
    assert not row.has("power")
    assert not row.has("speculative")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"decode_tokens_per_s": "fast"}, "decode_tokens_per_s is 'fast'"),
        ({"decode_tokens_per_s": "nan"}, "decode_tokens_per_s is nan"),
        ({"decode_tokens_per_s": "-1"}, "decode_tokens_per_s is -1"),
        ({"decode_tokens_per_s": "0"}, "decode_tokens_per_s is 0"),
        ({"weights_bytes": "2.5"}, "weights_bytes is '2.5'"),
        ({"weights_bytes": "9" * 4000}, f"weights_bytes is {'9' * 40}, which"),
        ({"device": "x", "threads": "t" * 9000}, f"threads is '{'t' * 40}', no int"),
        ({"accelerator": "tpu"}, "accelerator is 'tpu', not one of cpu, gpu, npu"),
        ({"model_type": ""}, "model_type is empty"),
        ({"device": ""}, "device is empty"),
        ({"conditions": "hot"}, "conditions has 'hot'"),
        ({"conditions": "power-mode"}, "conditions has 'power-mode'"),
        ({"conditions": "integer:3"}, "conditions has 'integer:3'"),
    ],
)
def test_a_bad_cell_is_named_with_its_line(change: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.csv, line 2: {re.escape(named)}"):
        read(**change)


@pytest.mark.parametrize(
    "bad",
    [[], ["device,engine"], [",".join(COLUMNS), "a,b,c"], [",".join(COLUMNS), '"never closed']],
)
def test_a_table_of_another_form_is_refused(bad: list[str]) -> None:
    with pytest.raises(ValueError, match=r"a\.csv"):
        read_published(bad, "a.csv")


@given(st.lists(st.text(max_size=60), max_size=4), st.booleans())
def test_no_text_makes_the_reader_fail_otherwise(text: list[str], with_header: bool) -> None:
    head = [",".join(COLUMNS)] if with_header else []
    try:
        rows: object = read_published([*head, *text], "a.csv")
    except ValueError as error:
        rows = str(error)
    assert isinstance(rows, tuple) or str(rows).startswith("a.csv")


def test_the_shipped_table_is_whole() -> None:
    rows = published_rows()
    assert rows is published_rows()
    assert len(rows) > 1_900
    assert len({row.device for row in rows}) > 90
    assert {row.accelerator for row in rows} == set(ACCELERATORS)
    assert {row.model_type for row in rows} == set(MODEL_TYPES)
    assert all(row.decode_tokens_per_s or row.prefill_tokens_per_s or row.energy_j_per_token
               for row in rows)  # fmt: skip
    assert all(row.parameters or row.weights_bytes for row in rows)


def test_every_condition_that_is_defined_occurs_and_every_shape_is_of_the_catalogue() -> None:
    rows = published_rows()
    found = {condition.partition(":")[0] for row in rows for condition in row.conditions}
    assert found == set(CONDITIONS)
    assert {row.model_id for row in rows} - {""} <= set(profiles.models())
    for row in rows:
        if row.model_id:
            assert row.parameters == pytest.approx(
                profiles.model(row.model_id).parameters, rel=1e-5
            )


def test_active_parameters_are_some_of_all() -> None:
    for row in published_rows():
        if row.active_parameters:
            assert row.parameters
            assert row.active_parameters < row.parameters
            assert row.model_type in ("moe", "ple")
        if row.model_type == "ple":
            assert row.active_parameters


def test_every_row_is_of_a_device_with_a_profile_that_has_what_ran_it() -> None:
    known = devices()
    for row in published_rows():
        assert row.device in known, row.device
        assert not row.accelerator or row.accelerator in known[row.device].accelerators, row


def test_no_two_rows_are_the_same() -> None:
    rows = published_rows()
    assert len(set(rows)) == len(rows)


def test_a_token_reads_no_more_than_the_files_of_its_level_hold() -> None:
    """A slip of a thousand in a size or of a row in a level shows as bits that no level has."""
    for row in published_rows():
        if row.weights_bytes and row.parameters and row.level not in ("", "F16"):
            bits = row.weights_bytes * 8 / row.parameters
            assert 1.5 < bits < 17, dataclasses.asdict(row)


def test_the_document_counts_what_is_there() -> None:
    text = (Path(__file__).parents[2] / "docs/measurements.md").read_text(encoding="utf-8")
    rows = published_rows()
    counted = f"{len(rows):,} rows of {len({r.device for r in rows})} devices from "
    assert f"{counted}{len({r.source_id for r in rows})} collections" in text
    refused = Path(next(iter(profiles.__path__))) / "refused.csv"
    with refused.open(encoding="utf-8", newline="") as file:
        rules = Counter(row["rule"] for row in csv.DictReader(file))
    assert dict(re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", text, re.MULTILINE)) == {
        rule: str(count) for rule, count in rules.items()
    }
    for name, count in Counter(devices()[r.device].device_class for r in rows).items():
        assert re.search(rf"^\| {name} \| \d+ \| {count} \|", text, re.MULTILINE), name
