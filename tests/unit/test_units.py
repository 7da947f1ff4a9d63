"""Units: what is read back is what was written, and nothing unreadable is accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import units
from edge_runtime.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [("6GiB", 6 * 1024**3), ("2GB", 2 * 10**9), ("512m", 512 * 1024**2), ("1.5 K", 1536), ("7", 7)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert units.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1G", "1 XB", "1e9", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        units.parse_bytes(text)


@pytest.mark.parametrize(("text", "s"), [("90s", 90), ("10m", 600), ("1h", 3600), ("250ms", 0.25)])
def test_durations_are_read(text: str, s: float) -> None:
    assert units.parse_duration_s(text) == s


def test_what_is_no_duration_is_refused() -> None:
    with pytest.raises(UsageError, match="is not a duration"):
        units.parse_duration_s("soon")


@pytest.mark.parametrize(
    ("text", "number"),
    [("1.5B", 1.5e9), ("222e9", 222e9), ("8x222e9", 1.776e12), (" 500 m ", 5e8), ("2T", 2e12),
     ("8 x 7B", 5.6e10), ("12", 12)],
)  # fmt: skip
def test_large_numbers_are_read(text: str, number: float) -> None:
    assert units.parse_scaled(text) == pytest.approx(number)
    assert units.parse_flop_per_s(f"{text} FLOP/s") == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "B", "-8B", "8x", "1e-9", "1e999", "nan", "8BB", "1 2", "x8"])
def test_what_is_no_large_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--n: .* is not a number"):
        units.parse_scaled(text, "--n")
    with pytest.raises(UsageError, match=r"--n: .* no rate of computing"):
        units.parse_flop_per_s(text, "--n")


@pytest.mark.parametrize(("text", "j"), [("18.2Wh", 65_520), ("65 kJ", 65_000), ("500mWh", 1800)])
def test_energies_are_read(text: str, j: float) -> None:
    assert units.parse_energy_j(text) == pytest.approx(j)


@pytest.mark.parametrize("text", ["15", "4700 mAh", "-1Wh", "Wh", "1e9Wh", "9" * 30 + "Wh"])
def test_what_is_no_energy_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--battery: "):
        units.parse_energy_j(text, "--battery")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.977 KiB"), (1536, "1.50 KiB"), (398_000_000, "380 MiB"),
     (5_340_000_000, "4.97 GiB"), (1024**3, "1.00 GiB")],
)  # fmt: skip
def test_sizes_are_worded(size: int, text: str) -> None:
    assert units.format_bytes(size) == text


@given(st.integers(0, 2**50))
def test_wording_keeps_three_digits(size: int) -> None:
    assert units.parse_bytes(units.format_bytes(size)) == pytest.approx(size, rel=0.006, abs=1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00085, "850 us"), (0.0123, "12.3 ms"), (4.56, "4.56 s"), (200, "3 min 20 s"),
     (7260, "2 h 1 min"), (-2.0, "-2.00 s")],
)  # fmt: skip
def test_durations_are_worded(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text


def test_counts_are_worded() -> None:
    assert units.format_count(494_032_768) == "494M"
    assert units.format_count(1_543_714_304) == "1.54B"
    assert units.format_count(999_885_952) == "1.00B"
    assert units.format_count(12_300) == "12.3k"
    assert units.format_count(512) == "512"
    assert units.format_bandwidth(17.1e9) == "17.1 GB/s"
