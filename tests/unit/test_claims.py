"""A rate that somebody claims of a device is impossible where its memory cannot move the bytes."""

from __future__ import annotations

import dataclasses

import pytest

from edge_runtime import project
from edge_runtime.errors import UsageError
from edge_runtime.projection.claims import judge_claim, refuse_impossible
from profiles.devices import DeviceProfile, device


def claim(model: str, level: str, on: str | DeviceProfile, tokens_per_s: float):
    profile = device(on) if isinstance(on, str) else on
    return judge_claim(project(model, level, profile), profile, tokens_per_s)


@pytest.mark.parametrize(
    ("model", "level", "on", "claimed", "needs", "memory"),
    [
        ("llama-3.2-3b", "Q4_0", "iphone-15-pro", 62, "118 GB/s", "51.2 GB/s"),
        ("llama-3.1-8b", "Q4_K_M", "jetson-agx-orin-64gb", 52, "240 GB/s", "205 GB/s"),
    ],
)
def test_two_claims_found_on_the_web_are_physically_impossible(
    model: str, level: str, on: str, claimed: float, needs: str, memory: str
) -> None:
    found = claim(model, level, on, claimed)
    assert found.possible is False
    assert found.most_tokens_per_s is not None
    assert found.most_tokens_per_s < claimed
    for words in ("is physically impossible", needs, memory, device(on).label):
        assert words in found.sentence
    with pytest.raises(UsageError, match="physically impossible"):
        refuse_impossible(found)


def test_what_the_memory_allows_is_compared_with_what_is_projected() -> None:
    rate = project("llama-3.2-3b", "Q4_0", "iphone-15-pro").decode_tokens_per_s
    inside = claim("llama-3.2-3b", "Q4_0", "iphone-15-pro", rate.value)
    assert inside.possible
    assert "are projected" in inside.sentence
    assert "slow" in claim("llama-3.2-3b", "Q4_0", "iphone-15-pro", rate.low / 2).sentence
    most = 1.005 * inside.most_tokens_per_s  # rounded figures may be a hair above
    assert "doubtful" in claim("llama-3.2-3b", "Q4_0", "iphone-15-pro", most).sentence
    refuse_impossible(inside)


def test_nothing_is_called_impossible_without_a_stated_bandwidth_or_from_a_cache() -> None:
    assert claim("smollm2-135m", "Q4_0", "iphone-15-pro", 5000).possible is None
    phone = device("iphone-15-pro")
    measured = dataclasses.replace(phone.memory_bandwidth_bytes_per_s, kind="measured")
    reached = dataclasses.replace(phone, memory_bandwidth_bytes_per_s=measured)
    assert claim("llama-3.2-3b", "Q4_0", reached, 62).possible is None


def test_a_mixture_of_experts_reads_only_the_experts_it_uses() -> None:
    dense = claim("llama-2-7b", "Q4_0", "rtx4090", 500)
    mixture = claim("olmoe-1b-7b", "Q4_0", "rtx4090", 500)
    assert (dense.possible, mixture.possible) == (False, True)
