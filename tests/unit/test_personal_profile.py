"""The profile of a device of one's own: what a host says of itself, what a known device adds."""

from __future__ import annotations

import dataclasses

import own_records
import pytest

from edge_runtime.basis import Unavailable
from edge_runtime.cli.engines import planned_model
from edge_runtime.cli.personal_profile import (
    certain_class,
    profile_of,
    refuse_impossible_rates,
    refuse_other_machine,
    slug,
)
from edge_runtime.errors import FormatError, UsageError
from edge_runtime.measurement import BandwidthReading, Gpu
from edge_runtime.projection.own import PersonalDevice
from edge_runtime.projection.own_rows import own_rows
from edge_runtime.statistics import Interval
from profiles.devices import device

GIB = own_records.GIB
FOUND = own_rows([own_records.measured("qwen3-0.6b", "Q4_0")], planned_model)
READING = BandwidthReading(
    bytes_per_s=Interval(low=9e9, value=20e9, high=21e9), working_set_bytes=1, threads=2,
    method="test",
)  # fmt: skip


def personal(base="", device_class="server", bandwidth=READING, created="2026-01-02", **host):
    return PersonalDevice(
        id="mine", name="Mine", base=base, device_class=device_class, created=created,
        tool_version="0", host=dataclasses.replace(own_records.HOST, **host), bandwidth=bandwidth,
        clock_hz=2.5e9, models=FOUND.models, rows=FOUND.rows,
    )  # fmt: skip


def test_a_host_alone_says_little_and_nothing_is_added():
    found = profile_of(personal())
    assert (found.id, found.device_class, found.os, found.isa) == (
        "mine", "server", ("Linux",), ("avx2",),
    )  # fmt: skip
    assert [(c.count, c.max_hz) for c in found.clusters] == [(2, 2.5e9)]
    roof = found.roof("cpu")
    # A slow pass was disturbed: the device reads at least the median.
    assert (roof.low, roof.high, roof.kind) == (20e9, 21e9, "measured")
    assert list(found.accelerators) == ["cpu"]
    assert found.tdp_w is None
    assert profile_of(personal(bandwidth=Unavailable(reason="no"))).roof("cpu") is None


@pytest.mark.parametrize(
    ("seen", "sold"),
    [(15.6, 16), (7.87, 8), (3.7, 4), (62.7, 64), (16.0, 16), (20.0, 20.0), (9.1, 9.1)],
)
def test_memory_is_what_it_was_sold_as_where_that_is_near(seen, sold):
    assert profile_of(personal(ram_bytes=int(seen * GIB))).ram_bytes == (int(sold * GIB),)


def test_a_bandwidth_that_a_model_exceeded_is_no_bound():
    slow = dataclasses.replace(READING, bytes_per_s=Interval(low=1e9, value=2e9, high=3e9))
    row = next(row for row in FOUND.rows if row.decode_tokens_per_s)
    read = sum(part.bytes for part in row.reads)
    figure = profile_of(personal(bandwidth=slow)).memory_bandwidth_bytes_per_s
    assert figure.low == pytest.approx(read * row.decode_tokens_per_s.low)
    assert figure.high == pytest.approx(read * row.decode_tokens_per_s.high)
    # As a rule the reading is the larger one.
    assert profile_of(personal()).memory_bandwidth_bytes_per_s.high == READING.bytes_per_s.high


def test_a_rate_that_such_a_device_cannot_have_is_refused():
    own = personal("raspberry-pi-5-8gb", "sbc")
    refuse_impossible_rates(own, device("raspberry-pi-5-8gb"))
    fast = tuple(
        dataclasses.replace(row, decode_tokens_per_s=Interval(low=900.0, value=1e3, high=1.1e3))
        for row in own.rows
    )
    with pytest.raises(UsageError, match="physically impossible"):
        refuse_impossible_rates(dataclasses.replace(own, rows=fast), device("raspberry-pi-5-8gb"))


def test_a_processor_of_another_maker_is_another_machine():
    host = dataclasses.replace(own_records.HOST, cpu="Intel(R) Xeon(R) Gold 6338")
    with pytest.raises(UsageError, match="not made on that device"):
        refuse_other_machine(host, device("epyc-7352"))
    refuse_other_machine(own_records.HOST, device("epyc-7352"))


def test_a_known_device_keeps_its_facts_and_is_one_more_product():
    found = profile_of(personal("raspberry-pi-5-8gb", "sbc", ram_bytes=int(7.87 * GIB)))
    base = device("raspberry-pi-5-8gb")
    assert (found.id, found.product.id, found.label) == (base.id, "mine", "Mine")
    assert found.memory_bandwidth_bytes_per_s == base.memory_bandwidth_bytes_per_s
    assert (found.clusters, found.accelerators) == (base.clusters, base.accelerators)
    assert found.ram_bytes == (8 * GIB,)
    assert "20.0 GB/s when measured" in found.note


def test_a_card_takes_its_processor_from_the_host():
    found = profile_of(personal("rtx4090", "gpu"))
    assert set(found.accelerators) >= {"cpu", "gpu"}
    assert found.roof("cpu").high == 21e9
    assert found.roof("gpu") == device("rtx4090").roof("gpu")
    assert found.ram_bytes == (16 * GIB,)


@pytest.mark.parametrize(
    ("gpu", "device_class", "memory"),
    [
        (Gpu(name="CUDA0", description="A card", memory_bytes=24 * GIB), "desktop", (24 * GIB,)),
        (Gpu(name="MTL0", description="Apple M9", memory_bytes=12 * GIB), "laptop", ()),
        (Gpu(name="CUDA0", description="Orin", memory_bytes=8 * GIB), "sbc", None),
        (Gpu(name="Vulkan0", description="Some GPU", memory_bytes=8 * GIB), "desktop", None),
    ],
)
def test_a_gpu_is_there_where_it_is_certain_whose_memory_it_has(gpu, device_class, memory):
    found = profile_of(personal(device_class=device_class, gpus=(gpu,))).accelerators.get("gpu")
    assert (found and found.memory_bytes) == memory


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"base": "pixel-99"}, "base is not known"), ({"created": "yesterday"}, "date is none")],
)
def test_a_record_that_makes_no_profile_says_why(changes, words):
    with pytest.raises(FormatError, match=words):
        profile_of(personal(**changes))


@pytest.mark.parametrize(
    ("cpu", "virtual", "expected", "short"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0 (4x Cortex-A76)", None, "sbc", "raspberry-pi-5"),
        ("AMD EPYC 9B14", None, "server", "amd-epyc-9b14"),
        ("Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz", None, "server", "intel-xeon-gold-6338"),
        ("Intel(R) Xeon(R) Processor", "KVM or QEMU", "server", "intel-xeon"),
        ("Intel(R) Xeon(R) W-2145 CPU @ 3.70GHz", None, None, "intel-xeon-w-2145"),
        ("AMD Ryzen Threadripper 7970X 32-Cores", None, "desktop",
         "amd-ryzen-threadripper-7970x-32-cores"),
        ("AMD Ryzen 7 7840HS with Radeon 780M Graphics", None, None, "amd-ryzen-7-7840hs"),
        ("Apple M4", None, None, "apple-m4"),
        ("11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz", None, None,
         "11th-gen-intel-core-i7-1165g7"),
        ("", None, None, "device"),
    ],
)  # fmt: skip
def test_a_class_is_certain_or_unknown_and_a_name_is_short(cpu, virtual, expected, short):
    host = dataclasses.replace(own_records.HOST, cpu=cpu, virtualization=virtual)
    assert certain_class(host) == expected
    assert slug(host) == short
