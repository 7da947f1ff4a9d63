"""How fast tokens must come: the arithmetic, the sources, and what an unknown name says."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles import reading

DATA = tomllib.loads(Path(reading.__file__).with_name("reading.toml").read_text("utf-8"))


def test_the_product_threshold_is_twenty_tokens_per_second() -> None:
    rate, source = reading.needed_tokens_per_s("reading")
    assert rate == 20.0
    assert "900 words/min" in source
    assert next(iter(reading.presets())) == "reading"


def test_the_threshold_is_clearly_above_every_way_of_reading() -> None:
    paces = {name: reading.needed_tokens_per_s(name)[0] for name in reading.presets()}
    assert paces.pop("reading") > 2 * max(paces.values())


@pytest.mark.parametrize(
    ("preset", "rate"),
    # Worked by hand: words per minute / 60 * 4 / 3.
    [("silent-reading", 5.289), ("fiction-reading", 5.778), ("reading-aloud", 4.067),
     ("speech", 3.333), ("fast-reading", 7.778)],
)  # fmt: skip
def test_english_rates_equal_the_arithmetic_by_hand(preset: str, rate: float) -> None:
    assert reading.needed_tokens_per_s(preset)[0] == pytest.approx(rate, abs=5e-4)


@pytest.mark.parametrize(
    ("language", "tokenizer", "premium"),
    # Divided by hand from the counts of the published table.
    [("de", "qwen", 1.552), ("hi", "qwen", 4.469), ("zh", "qwen", 1.075), ("zh", "llama2", 1.997),
     ("ar", "gpt2", 4.400), ("en", "llama2", 1.0)],
)  # fmt: skip
def test_a_language_multiplies_the_tokens_by_its_premium(
    language: str, tokenizer: str, premium: float
) -> None:
    english, _ = reading.needed_tokens_per_s("silent-reading", tokenizer=tokenizer)
    rate, _ = reading.needed_tokens_per_s("silent-reading", language, tokenizer=tokenizer)
    assert rate / english == pytest.approx(premium, abs=1e-3)


def test_the_languages_people_ask_for_are_known_to_every_tokenizer() -> None:
    asked = {"en", "de", "fr", "es", "it", "pt", "zh", "ja", "ko", "ar", "ru", "hi", "tr"}
    assert asked <= set(reading.languages())
    for counts in reading.tokenizers().values():
        assert set(counts.tokens) == set(reading.languages())
        # These vocabularies serve English best; a premium below 1 is a typing error.
        assert all(1 <= counts.premium(code) < 10 for code in counts.tokens)


def test_every_number_has_a_source() -> None:
    tables = [DATA["english"], DATA["same_pace"], *DATA["presets"].values()]
    tables += DATA["tokenizers"].values()
    assert all(len(table["source"]) > 20 for table in tables)


def test_the_source_names_what_the_rate_rests_on() -> None:
    _, source = reading.needed_tokens_per_s("silent-reading", "DE")
    assert "Brysbaert 2019" in source
    assert "German" in source
    assert "2305.15425" in source
    assert "\n" not in source


@given(st.floats(0.1, 20), st.sampled_from(sorted(reading.presets())))
def test_the_rate_is_proportional_to_tokens_per_word(per_word: float, preset: str) -> None:
    usual, _ = reading.needed_tokens_per_s(preset, "fr")
    given_rate, source = reading.needed_tokens_per_s(preset, "fr", per_word)
    assert given_rate / usual == pytest.approx(per_word / (4 / 3))
    assert "as given" in source


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [(("raeding",), "'reading'"), (("reading", "xx"), "de, "), (("reading", "en", 0.0), "positive"),
     (("reading", "en", float("nan")), "positive"), (("reading", "en", -1.0), "positive")],
)  # fmt: skip
def test_a_wrong_argument_is_refused_with_what_is_known(
    arguments: tuple[str, ...], wanted: str
) -> None:
    with pytest.raises(ValueError, match=wanted):
        reading.needed_tokens_per_s(*arguments)  # type: ignore[arg-type]


def test_an_unknown_tokenizer_is_refused_with_what_is_known() -> None:
    with pytest.raises(ValueError, match="Known: qwen, llama2, gpt2"):
        reading.needed_tokens_per_s("reading", tokenizer="gpt-9")
