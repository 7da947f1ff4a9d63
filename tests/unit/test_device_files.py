"""Every device that ships: read, sourced, free of contradictions, and found by its names."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from profiles.contradictions import names_of, repeated_names
from profiles.device_files import parse_device
from profiles.devices import CLASSES, device, device_names, devices
from profiles.figures import Figure
from profiles.os_memory import rules, usable_memory
from profiles.published import published_rows

FOLDER = Path(str(files("profiles") / "devices"))


def figures_of(profile):
    units = profile.accelerators.values()
    found = [profile.memory_bandwidth_bytes_per_s, profile.tdp_w, profile.sustained_w]
    found += [profile.battery_j, *(product.battery_j for product in profile.products)]
    for unit in units:
        found += [unit.bandwidth_bytes_per_s, unit.fp16_flop_per_s, unit.fp32_flop_per_s]
        found += [unit.int8_op_per_s]
    for mode in profile.power_modes:
        found += [mode.limit_w, mode.bandwidth_bytes_per_s]
    return [figure for figure in found if figure is not None]


def test_the_catalogue_covers_all_classes():
    catalogue = devices()
    assert len(catalogue) >= 200
    assert {profile.device_class for profile in catalogue.values()} == set(CLASSES)
    assert len(list(FOLDER.glob("*.toml"))) == len(catalogue)
    order = [(CLASSES.index(d.device_class), d.id) for d in catalogue.values()]
    assert order == sorted(order)


def test_the_example_of_the_readme_is_a_sound_file():
    text = (FOLDER / "README.md").read_text("utf-8")
    example = text.split("```toml\n", 1)[1].split("```", 1)[0]
    board = parse_device(example.encode(), "my-board.toml")
    assert board.products[0].id == "my-board-8gb"


def test_no_name_is_two_devices():
    catalogue = {FOLDER / f"{profile.id}.toml": profile for profile in devices().values()}
    assert list(repeated_names(catalogue)) == []


def test_each_name_finds_its_device():
    owner = {name: d.id for d in devices().values() for name in names_of(d)}
    assert set(device_names()) == set(owner)
    for name in sorted(owner)[::9]:
        found = device(name)
        assert found.id == owner[name]
        assert (found.product is not None) == (name in {p.id for p in found.products})


def test_every_figure_has_a_source_that_a_stranger_can_follow():
    address = re.compile(r"https?://|github:|doi|arxiv", re.IGNORECASE)
    for profile in devices().values():
        for text in [*profile.sources.values(), *(f.source for f in figures_of(profile))]:
            assert address.search(text), (profile.id, text)


@pytest.mark.parametrize(
    ("name", "accelerator", "gb_per_s"),
    [
        # Data sheets, by way of arithmetic that any reader can repeat.
        ("raspberry-pi-5-8gb", "cpu", 4.267 * 4),
        ("rtx4090", "gpu", 21 * 384 / 8),
        ("apple-m1", "gpu", 4.267 * 16),
        ("jetson-orin-nano-super", "gpu", 6.4 * 16),
        ("a100-80gb-pcie", "gpu", 1935),
    ],
)
def test_well_known_roofs(name, accelerator, gb_per_s):
    roof = device(name).roof(accelerator)
    assert roof.low / 1e9 <= gb_per_s * 1.02
    assert roof.high / 1e9 >= gb_per_s * 0.98


def test_published_measurements_are_of_known_devices():
    known = set(device_names())
    assert {row.device for row in published_rows()} <= known


def test_what_systems_leave_is_sourced_and_less_than_there_is():
    for rule in rules():
        for figure in (rule.share, rule.taken_bytes):
            assert figure is None or "://" in figure.source or "github:" in figure.source
    for profile in devices().values():
        for kind, unit in profile.accelerators.items():
            for size in unit.memory_bytes or profile.ram_bytes:
                left = usable_memory(profile, size, kind)
                assert isinstance(left, Figure), (profile.id, kind)
                assert 0 < left.low <= left.high < size, (profile.id, kind, size)
