"""Learning: what was planted is found, conditioning is Bayes' rule, damaged files are told."""

from __future__ import annotations

import copy
import hashlib
import math
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files

import pytest

from edge_runtime.artifact import GGML_TYPES
from edge_runtime.errors import FormatError
from edge_runtime.projection.coefficients import (
    DECODE,
    PREFILL,
    read_coefficients,
    shipped,
)
from edge_runtime.projection.effects import (
    Beliefs,
    OwnTime,
    condition,
    predict,
    supplied_terms,
)
from edge_runtime.projection.features import FAMILY_OF, Demand, family_of
from edge_runtime.projection.intervals import deviations, rate_interval
from edge_runtime.projection.learn import Learnt, learn
from edge_runtime.projection.observations import (
    LEFT_OUT,
    Observation,
    known_level,
    observe_decode,
    observe_prefill,
    usable,
)
from edge_runtime.projection.priors import priors
from edge_runtime.projection.supply import (
    KINDS,
    Route,
    Supply,
    Typical,
    instructions_of,
    supply_of,
    typical_of,
)
from edge_runtime.projection.time_model import estimate, loads, terms_of
from edge_runtime.projection.validation import (
    LeftOut,
    cost_model,
    leave_devices_out,
    widened_by_others,
    widening_of,
)
from profiles.devices import device, devices
from profiles.projection import projection_table, read_projection
from profiles.published import PublishedRow, published_rows

TYPICAL = Typical(per_byte=35.0, spread=0.5)


def row(**changes) -> PublishedRow:
    values = {
        "device": "rtx3090", "engine": "llama.cpp", "accelerator": "gpu", "api": "cuda",
        "model": "Llama 3.1 8B", "model_id": "llama-3.1-8b", "model_type": "dense",
        "parameters": 8.03e9, "active_parameters": None, "level": "Q4_K_M",
        "weights_bytes": 4_917_000_000, "threads": None, "prompt_tokens": 512,
        "generate_tokens": 128, "depth_tokens": 0, "prefill_tokens_per_s": 4000.0,
        "decode_tokens_per_s": 120.0, "ttft_s": None, "peak_memory_bytes": None, "power_w": None,
        "energy_j_per_token": None, "conditions": (), "date": "2026-01", "source": "a test",
        "source_id": "T",
    }  # fmt: skip
    return PublishedRow(**(values | changes))


def supply(name: str, bandwidth: float = 500e9) -> Supply:
    return Supply(
        device=name,
        device_class="gpu",
        route=Route(kind="gpu", engine="llama.cpp", api="cuda"),
        bandwidth_bytes_per_s=bandwidth,
        bandwidth_spread=0.0,
        compute_per_s=35 * bandwidth,
        compute_spread=0.0,
        compute_known=True,
    )


def demand(size: float, layers: float = 30.0) -> Demand:
    return Demand(
        layers=layers,
        bytes_read=size,
        weights={"k": size / 0.6},
        cache_bytes=0.0,
        attention=0.0,
    )


def planted(devices_count: int = 12, rows_each: int = 8, noise: float = 0.02) -> list[Observation]:
    """Rows of devices that differ by a tenth or so in each coefficient."""
    chance = random.Random(7)
    found = []
    for number in range(devices_count):
        own = supply(f"device-{number}", chance.choice((100e9, 400e9, 900e9)))
        slow = math.exp(chance.gauss(0, 0.1))
        for _ in range(rows_each):
            asked = demand(chance.uniform(0.3e9, 8e9), chance.uniform(16, 48))
            seconds = slow * (
                1.2 * asked.bytes_read / own.bandwidth_bytes_per_s
                + 1e-4 * asked.layers
                + 4 * asked.weights["k"] / own.compute_per_s
            )
            logged = math.log(seconds) + chance.gauss(0, noise)
            found.append(Observation(row=row(), demand=asked, supply=own, log_seconds=logged))
    return found


def parts(learnt: Learnt) -> dict[str, float]:
    return {name: log for name, (log, _) in learnt.parts.items()}


def test_planted_coefficients_are_found_again():
    observations = planted()
    learnt = learn(observations, priors(DECODE, "gpu"))
    assert 0.01 < learnt.noise < 0.05
    model = cost_model(learnt, observations, TYPICAL)
    unseen = supply("unseen", 300e9)
    for size in (0.5e9, 5e9):
        asked = demand(size)
        truth = 1.2 * size / 300e9 + 1e-4 * 30 + 4 * size / 0.6 / (35 * 300e9)
        found = predict(supplied_terms(asked, unseen), Beliefs(model, unseen), model.noise)
        assert math.exp(found.log_seconds) == pytest.approx(truth, rel=0.08)


def test_one_wild_device_and_one_wild_row_move_little():
    observations = planted()
    calm = parts(learn(observations, priors(DECODE, "gpu")))
    wild = [
        replace(one, log_seconds=one.log_seconds + 2.5) if one.supply.device == "device-3" else one
        for one in observations
    ]
    wild[0] = replace(wild[0], log_seconds=wild[0].log_seconds - 3)
    stirred = parts(learn(wild, priors(DECODE, "gpu")))
    rates = []
    for found in (calm, stirred):
        terms = terms_of(demand(2e9), supply("unseen"))
        means = {p: found.get(p.name, 0.0) for term in terms for p in term.parts}
        rates.append(math.exp(-estimate(terms, means).log_seconds))
    assert rates[1] == pytest.approx(rates[0], rel=0.15)


def test_a_device_with_many_rows_is_one_device():
    few = planted(8, 4)
    many = [one for one in few if one.supply.device == "device-0"] * 30
    base, heavy = (parts(learn(rows, priors(DECODE, "gpu"))) for rows in (few, few + many))
    assert heavy["gpu/layer"] == pytest.approx(base["gpu/layer"], abs=0.25)


def test_leaving_devices_out_judges_each_by_the_others():
    observations = planted(8, 5, 0.05)
    left = leave_devices_out(observations, priors(DECODE, "gpu"), TYPICAL)
    assert len(left.bare) == len(observations)
    assert sorted(r.error for r in left.bare)[len(left.bare) // 2] < 0.2
    own = sorted(r.error for r in left.own)
    assert own[len(own) // 2] < 0.1
    widening = widening_of(left)
    assert set(widening.routes) == {"gpu/llama.cpp/cuda"}
    covered = widened_by_others(left.bare)
    assert 0.6 <= sum(r.covered for r in covered) / len(covered) <= 1
    assert widening.for_route("gpu/nothing") == widening.unseen > 0
    assert widening.afar >= 2 * widening.unseen
    assert widening.for_route("gpu/llama.cpp/cuda", afar=True) == widening.afar
    # Misses of devices that nothing like them was known of decide about such devices only.
    stranger = replace(left.bare[0], log_miss=9.0, deviation=0.1, afar=True)
    stirred = widening_of(LeftOut(bare=(*left.bare, stranger), own=left.own, half=left.half))
    assert (stirred.unseen, stirred.routes) == (widening.unseen, widening.routes)
    assert stirred.afar == stranger.scaled


def test_conditioning_is_bayes_rule_for_a_single_part():
    # One row that is all reading: its miss is shared between what it may be due to by variance.
    observations = planted()
    model = cost_model(learn(observations, priors(DECODE, "gpu")), observations, TYPICAL)
    unseen = supply("unseen")
    beliefs = Beliefs(model, unseen)
    terms = supplied_terms(demand(3e9), unseen)
    before = predict(terms, beliefs, model.noise)
    told = OwnTime(terms=terms, log_seconds=before.log_seconds + 0.1, deviation=model.noise)
    after = predict(terms, beliefs, model.noise, condition([told], beliefs))
    device_variance = before.deviation**2 - model.noise**2
    share = device_variance / (device_variance + model.noise**2)
    assert after.log_seconds - before.log_seconds == pytest.approx(0.1 * share, rel=0.15)
    assert after.deviation < before.deviation
    many = predict(terms, beliefs, model.noise, condition([told] * 40, beliefs))
    assert many.log_seconds - before.log_seconds == pytest.approx(0.1, abs=0.01)


def test_the_loads_are_the_slopes_of_the_time():
    terms = terms_of(demand(2e9), supply("one"))
    means = {part: -8.0 if "layer" in part.name else 0.1 for t in terms for part in t.parts}
    here = estimate(terms, means)
    for part, load in loads(terms, here.shares).items():
        moved = estimate(terms, {**means, part: means[part] + 1e-5}).log_seconds
        assert (moved - here.log_seconds) / 1e-5 == pytest.approx(load, rel=1e-3)


def test_the_tails_are_those_of_students_t():
    # Quantiles of t with 4 degrees of freedom: 1.533 (two-sided 80 %), 2.132 (90 %), 2.776 (95 %).
    assert deviations(0.80) == pytest.approx(1.2816, abs=1e-3)
    assert deviations(0.90) / deviations(0.80) == pytest.approx(2.132 / 1.533, abs=1e-3)
    assert deviations(0.95) / deviations(0.80) == pytest.approx(2.776 / 1.533, abs=1e-3)
    cut = rate_interval(math.log(0.1), 0.3, widening=1.0, confidence=0.8, ceiling=11.0)
    assert cut.value == pytest.approx(10)
    assert cut.low < 10 < cut.high == 11.0


def test_a_row_is_left_out_when_something_else_than_the_device_made_its_rate():
    assert usable(row())
    for condition_name in LEFT_OUT:
        assert not usable(row(conditions=(condition_name,)))
    assert not usable(row(conditions=("power-mode:15W",)))
    assert usable(row(conditions=("power-mode:MAXN",)))
    assert not usable(row(accelerator=""))
    assert not usable(row(model_type="unknown"))


def observed(one: PublishedRow) -> Observation | None:
    return observe_decode(one, device(one.device), dict.fromkeys(KINDS, TYPICAL))


def test_a_model_the_card_cannot_hold_says_nothing_of_the_card():
    assert observed(row()) is not None
    assert observed(row(model_id="", weights_bytes=42_000_000_000)) is None
    assert observed(row(decode_tokens_per_s=None)) is None
    assert observed(row(model_id="", parameters=None, weights_bytes=None)) is None


def test_an_uncatalogued_model_is_about_one_that_is_known():
    known, guessed = observed(row()), observed(row(model_id=""))
    assert not known.demand.estimated
    assert guessed.demand.estimated
    assert guessed.demand.bytes_read == pytest.approx(known.demand.bytes_read, rel=0.1)
    assert guessed.demand.layers == pytest.approx(known.demand.layers, rel=0.3)
    assert set(guessed.demand.weights) == set(known.demand.weights)
    mixture = row(model_id="", model_type="moe", parameters=30e9, active_parameters=3e9)
    shallow = observed(mixture)
    assert shallow.demand.bytes_read == pytest.approx(0.1 * 4_917_000_000, rel=0.01)
    assert shallow.demand.architecture == "moe"
    assert observed(replace(mixture, depth_tokens=32768)) is None


def test_context_before_the_measurement_counts():
    shallow, deep = (observed(replace(row(), depth_tokens=n)) for n in (0, 8192))
    assert deep.demand.cache_bytes > 50 * shallow.demand.cache_bytes
    one, other = (
        observe_prefill(replace(row(), depth_tokens=n), device("rtx3090"), {"gpu": TYPICAL})
        for n in (0, 8192)
    )
    assert other.demand.attention > 10 * one.demand.attention


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("Q4_K_M", "Q4_K_M"), ("UD-Q8_K_XL", "Q8_0"), ("UD-Q4_K_XL", "Q4_K_M"), ("INT4", "Q4_0"),
        ("W8A8", "Q8_0"), ("Q4_K", "Q4_K_M"), ("", "Q4_K_M"),
    ],
)  # fmt: skip
def test_levels_of_other_engines_are_like_one_of_ours(level, expected):
    assert known_level(row(level=level)) == expected


def test_every_published_level_is_understood_or_the_row_says_too_little():
    for one in published_rows():
        if one.level:
            assert known_level(one) is not None, one.level


def test_every_tensor_type_has_a_family():
    integers = {"I8", "I16", "I32", "I64"}
    assert set(GGML_TYPES) - set(FAMILY_OF) <= integers | {"Q8_1", "Q8_K"}
    assert family_of("q6_k") == "k"


def test_what_decides_the_kernels_of_a_processor():
    assert instructions_of(device("apple-m2-max")) == "apple"
    assert instructions_of(device("ryzen-7950x")) == "avx512"
    assert instructions_of(device("raspberry-pi-5")) == "dotprod"
    assert instructions_of(device("hifive-p550")) == "none"
    assert instructions_of(device("core2quad-q8400")) == "sse"
    assert Route.on(device("sd8gen2"), "gpu", "llama.cpp", "opencl").hardware == "qualcomm"
    assert Route.on(device("rtx3090"), "gpu", "llama.cpp", "vulkan").hardware == "nvidia"
    assert Route.on(device("rtx3090"), "gpu", "llama.cpp", "cuda").hardware == ""
    assert Route.on(device("rtx3090"), "gpu", "Ollama", "cuda").path == "gpu/llama.cpp/cuda"


def test_the_fastest_cores_are_used_first():
    phone = device("snapdragon-8-gen-2")
    route = Route.on(phone, "cpu", "llama.cpp", "")
    one, two, everything = (
        supply_of(phone, route, TYPICAL, threads=n).compute_per_s for n in (1, 2, None)
    )
    fastest = max(c.max_hz for c in phone.clusters)
    assert one == fastest
    assert fastest < two <= 2 * fastest
    # The five cores of half the width and the three of a quarter count as what they get done.
    width = {
        "Cortex-X3": 1.0,
        "Cortex-A715": 0.5,
        "Cortex-A710": 0.5,
        "Cortex-A510": 0.25,
    }
    assert everything == pytest.approx(
        sum(c.count * c.max_hz * width[c.name] for c in phone.clusters)
    )


def test_cores_that_are_alike_count_whole_whatever_their_width():
    board = device("raspberry-pi-5")
    found = supply_of(board, Route.on(board, "cpu", "llama.cpp", ""), TYPICAL)
    assert found.compute_per_s == sum(c.count * c.max_hz for c in board.clusters)
    assert found.threads == board.cores


def test_threads_wait_for_each_other_at_every_layer():
    server = device("ryzen-7950x")
    route = Route.on(server, "cpu", "llama.cpp", "")
    few, many = (
        next(
            term.seconds
            for term in terms_of(demand(1e9), supply_of(server, route, TYPICAL, threads=n))
            if term.name == "layer"
        )
        for n in (4, 16)
    )
    assert many == pytest.approx(2 * few)


def test_a_prompt_is_evaluated_by_the_matrix_units():
    card = device("a100-80gb-sxm")
    unit = card.accelerators["gpu"]
    route = Route.on(card, "gpu", "llama.cpp", "cuda")
    one = supply_of(card, route, TYPICAL).compute_per_s
    prompt = supply_of(card, route, TYPICAL, prompt=True).compute_per_s
    assert one == unit.fp32_flop_per_s.value
    assert prompt == unit.int8_op_per_s.value


def test_a_prompt_stands_behind_its_depth_and_runs_on_its_own_threads():
    known = {"cpu": TYPICAL, "gpu": TYPICAL}
    first, as_deep, behind = (
        observe_prefill(row(prompt_tokens=512, depth_tokens=depth), device("rtx3090"), known)
        for depth in (0, 512, 4096)
    )
    assert first.demand.attention == as_deep.demand.attention < behind.demand.attention
    machine = device("ryzen-7950x")
    changes = {"device": machine.id, "accelerator": "cpu", "api": "", "threads": 2}
    two, sixteen = (
        observe_prefill(row(**changes, conditions=conditions), machine, known).supply
        for conditions in ((), ("prefill-threads:16",))
    )
    assert (two.threads, sixteen.threads) == (2, 16)
    assert sixteen.compute_per_s > two.compute_per_s


def test_what_is_typical_comes_from_the_devices():
    typical = typical_of(devices().values(), "gpu")
    assert 5 < typical.per_byte < 200
    assert 0.2 < typical.spread < 1.5


# The shipped file.


def test_the_shipped_coefficients_are_whole_and_physical():
    found = shipped()
    for phase in (DECODE, PREFILL):
        for kind in KINDS:
            model = found.model(phase, kind)
            assert model.support
            assert model.parts
            assert 0.02 < model.noise < 0.6
            assert 0.2 < model.widening.unseen < 4
    assert found.provenance["rows"] == len(published_rows())


def test_the_shipped_coefficients_are_of_the_shipped_rows():
    rows = (files("profiles") / "measurements.csv").read_bytes()
    assert shipped().provenance["rows_sha256"] == hashlib.sha256(rows).hexdigest()


def plain(value):
    return {k: plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 99),
        (("provenance",), 3),
        (("decode",), "nothing"),
        (("decode", "gpu"), None),
        (("decode", "gpu", "noise"), -1.0),
        (("decode", "gpu", "noise"), float("nan")),
        (("decode", "cpu", "parts", "cpu/layer"), [1.0]),
        (("decode", "cpu", "parts", "cpu/layer"), [float("inf"), 0.1]),
        (("decode", "cpu", "parts", "cpu/layer"), [1e300, 0.1]),
        (("decode", "cpu", "devices", "x|cpu/llama.cpp"), 4),
        (("decode", "cpu", "spreads", "device.layer"), "wide"),
        (("decode", "npu", "widening", "unseen"), 0),
        (("decode", "npu", "typical", "per_byte"), True),
        (("prefill", "gpu", "support", "gpu/llama.cpp/cuda"), [10]),
        (("prefill", "gpu", "support", "gpu/llama.cpp/cuda"), [-1, 2]),
    ],
)
def test_a_damaged_file_is_told_by_the_field(path, value):
    table = copy.deepcopy(plain(projection_table()))
    inner = table
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(FormatError) as caught:
        read_coefficients(table)
    assert path[-1] in str(caught.value) or path[-1] in ("x|cpu/llama.cpp",)


def test_a_file_that_is_no_toml_is_told():
    with pytest.raises(ValueError, match="no TOML"):
        read_projection(b"\xff\x00 = [")


def test_a_projection_needs_no_numpy():
    code = (
        "import sys\n"
        "import profiles\n"
        "from edge_runtime.artifact import ModelShape\n"
        "from edge_runtime.memory_needs import planned_gguf\n"
        "from edge_runtime.projection import project\n"
        "from profiles.devices import device\n"
        "entry = profiles.model('qwen2.5-1.5b')\n"
        "shape = ModelShape.from_config(entry.config, name=entry.id)\n"
        "project(planned_gguf(shape, 'Q4_K_M'), device('pixel-9-pro'))\n"
        "assert 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
