"""The table of processor cores: every core has its width and a source, and damage is told."""

from __future__ import annotations

import pytest

from profiles.cores import cores, read_cores
from profiles.devices import devices

GOOD = """
[cores]
"Cortex-A76" = { lanes = 8, source = "page" }
[sources]
page = "https://example.org"
"""


def test_every_core_has_a_width_and_a_source():
    for name, core in cores().items():
        assert 1 <= core.lanes <= 64, name
        assert core.source.startswith(("https://", "github:")), name


def test_every_core_of_the_table_is_in_some_device_under_its_name():
    used = {cluster.name for device in devices().values() for cluster in device.clusters}
    assert set(cores()) - used <= {"Cortex-A75"}


def test_a_table_is_read():
    core = read_cores(GOOD.encode())["Cortex-A76"]
    assert (core.lanes, core.source, core.instructions) == (
        8.0,
        "https://example.org",
        "",
    )


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        (GOOD.replace("lanes = 8", "lanes = 0"), "Cortex-A76: lanes is 0"),
        (GOOD.replace("lanes = 8", "lanes = nan"), "Cortex-A76: lanes is nan"),
        (GOOD.replace("lanes = 8", "lanes = true"), "Cortex-A76: lanes is True"),
        (GOOD.replace("lanes = 8, ", ""), "Cortex-A76: lanes is None"),
        (
            GOOD.replace('{ lanes = 8, source = "page" }', "8"),
            "Cortex-A76: lanes is None",
        ),
        (GOOD.replace('"page" }', '"other" }'), "Cortex-A76: its source is none"),
        (GOOD.replace("[cores]", "[cores"), "no TOML"),
        ("cores = 3", "lists none"),
    ],
)
def test_a_damaged_table_is_told(damaged: str, told: str):
    with pytest.raises(ValueError, match=r"Cortex|TOML|table") as caught:
        read_cores(damaged.encode())
    assert told in str(caught.value)
