"""The catalogue of model shapes: complete, sourced, and strict about its files."""

from __future__ import annotations

import pytest

import profiles

GOOD = """
id = "one"
name = "One"
family = "fam"
repo = "owner/one"
license = "mit"
released = "2025-04"
parameters = 5
check_default = false
as_of = "2026-01-31"
[config]
model_type = "llama"
[source]
config = "https://example.org"
parameters = "counted"
"""


@pytest.fixture
def read(tmp_path):
    def make(text, name="one.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return profiles.read_model(path)

    return make


def test_the_catalogue_is_large_and_ordered_by_size():
    catalogue = profiles.models()
    assert len(catalogue) >= 28
    counts = [entry.parameters for entry in catalogue.values()]
    assert counts == sorted(counts)
    assert any(entry.check_default for entry in catalogue.values())
    assert profiles.models() is catalogue


def test_an_entry_by_its_id():
    entry = profiles.model("smollm2-135m")
    assert entry.parameters == 134_515_008
    assert entry.config["hidden_size"] == 576
    with pytest.raises(ValueError, match="'nothing'"):
        profiles.model("nothing")


def test_a_good_file_is_read(read):
    entry = read(GOOD)
    assert entry.id == "one"
    assert entry.as_of.year == 2026
    assert entry.source["parameters"] == "counted"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('id = "one"', "", "lacks id"),
        ('id = "one"', 'id = "two"', "named after its id"),
        ('id = "one"', "id = 1", "id must be a str"),
        ('name = "One"', 'name = ""', "name"),
        ("parameters = 5", "parameters = 5.0", "parameters must be a int"),
        ("parameters = 5", "parameters = true", "parameters"),
        ("parameters = 5", "parameters = 0", "positive"),
        ("check_default = false", "check_default = 0", "check_default"),
        ('released = "2025-04"', 'released = "April"', "YYYY-MM"),
        ('as_of = "2026-01-31"', 'as_of = "2026-13-31"', "YYYY-MM"),
        ('model_type = "llama"', "", "config"),
        ('parameters = "counted"', "", "no source for parameters"),
        ('parameters = "counted"', "parameters = 3", "each source is a text"),
        ("[config]", "extra = 1\n[config]", "unknown fields extra"),
        ("[config]", "[config", "no TOML file"),
    ],
)
def test_a_malformed_file_is_named_with_its_field(read, old, new, said):
    assert old in GOOD
    with pytest.raises(ValueError, match=said) as caught:
        read(GOOD.replace(old, new, 1))
    assert "one.toml" in str(caught.value)
