"""How published measurements are cleaned: what is refused and why, and what is left out."""

import csv
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_measurements import RAW, kept, raw, refused

import profiles
from profiles.published import COLUMNS, published_rows, read_published
from scripts import clean_measurements
from scripts.measurements import refusals
from scripts.measurements.cleaning import RAW_COLUMNS, clean
from scripts.measurements.devices import DeviceFacts, read_devices

A17_PRO = 51.2e9
AGX_ORIN = 204.8e9
RTX_3090 = DeviceFacts(bandwidth_bytes_per_s=936e9, fp16_flop_per_s=71e12, card=True)


def test_a_plain_row_comes_out_in_si_with_its_shape() -> None:
    row = kept(ttft_ms="120", peak_mem_mb="5000", threads="4", gen_tokens="128.0")
    assert (row.engine, row.accelerator, row.api) == ("llama.cpp", "gpu", "cuda")
    assert (row.model_id, row.model_type, row.parameters) == ("llama-3.1-8b", "dense", 8.03026e9)
    assert row.weights_bytes == 4_917_700_000
    assert row.ttft_s == 0.12
    assert row.peak_memory_bytes == 5_000_000_000
    assert (row.threads, row.generate_tokens, row.depth_tokens) == (4, 128, 0)
    assert row.prompt_tokens is None
    assert row.conditions == ()


# --- what physics forbids ---


def test_62_tokens_per_s_of_a_3b_model_on_a_phone_of_51_gb_per_s_is_impossible() -> None:
    claim = refused(
        {"apple-a17pro": A17_PRO},
        device_id="apple-a17pro",
        model="Llama-3.2-3B",
        quant="Q4",
        file_size_gb="",
        params_b="3.21",
        decode_tok_s="62",
        prefill_tok_s="",
    )
    assert claim.rule == "bandwidth-roof"
    assert claim.reason.startswith("Physically impossible: 62 tok/s")
    assert "51.2 GB/s" in claim.reason


def test_52_tokens_per_s_of_8b_on_an_agx_orin_are_impossible_unless_it_speculates() -> None:
    devices: dict[str, DeviceFacts | float] = {"jetson-agx-orin-64gb": AGX_ORIN}
    assert refused(devices, decode_tok_s="52").rule == "bandwidth-roof"
    assert kept(devices, decode_tok_s="38").decode_tokens_per_s == 38
    # 8.03e9 x 4.5 bits allow 45; less the input embedding, of which a token reads one row, 48.5.
    assert kept(devices, decode_tok_s="47").decode_tokens_per_s == 47
    row = kept(devices, decode_tok_s="61.5", notes="speculative decoding, 1B draft, n-max 8")
    assert row.has("speculative")
    drafts = refused(devices, decode_tok_s="900", notes="speculative decoding, 1B draft")
    assert drafts.rule == "bandwidth-roof", "seventeen tokens a reading are the most"


def test_speculation_that_is_off_excuses_nothing() -> None:
    devices: dict[str, DeviceFacts | float] = {"jetson-agx-orin-64gb": AGX_ORIN}
    off = refused(devices, decode_tok_s="61.5", notes="pp1024, tg256; speculative off")
    assert off.rule == "bandwidth-roof"


def test_without_a_file_size_the_level_bounds_the_bytes() -> None:
    devices: dict[str, DeviceFacts | float] = {"jetson-agx-orin-64gb": AGX_ORIN}
    assert (
        refused(devices, file_size_gb="", quant="F16", decode_tok_s="15").rule == "bandwidth-roof"
    )
    assert kept(devices, file_size_gb="", quant="F16", decode_tok_s="12").level == "F16"
    assert kept(devices, file_size_gb="", quant="", decode_tok_s="500").level == ""


def test_a_size_with_an_embedding_twice_bounds_nothing() -> None:
    twice = {"model": "Llama-3.2-1B", "params_b": "1.50", "quant": "", "file_size_gb": "2"}
    row = kept({"box": 10e9}, device_id="box", **twice, prefill_tok_s="", decode_tok_s="6")
    assert row.has("embedding-twice")


def test_a_mixture_reads_its_active_parameters_only() -> None:
    devices: dict[str, DeviceFacts | float] = {"nvidia-gb10": 273e9}
    mixture = {
        "device_id": "nvidia-gb10",
        "model": "gpt-oss 120B MXFP4 MoE",
        "quant": "MXFP4 MoE",
        "params_b": "116.83",
        "model_type": "moe",
        "file_size_gb": "63.3722",
    }
    assert kept(devices, **mixture, decode_tok_s="55").active_parameters == 5.13e9
    assert refused(devices, **mixture, decode_tok_s="110").rule == "bandwidth-roof"


def test_a_model_that_fits_a_cache_may_beat_the_memory() -> None:
    devices: dict[str, DeviceFacts | float] = {"box": 50e9}
    small = {"device_id": "box", "model": "SmolLM2-135M", "params_b": "", "file_size_gb": "0.105"}
    assert kept(devices, **small, decode_tok_s="600").decode_tokens_per_s == 600


def test_a_prefill_no_card_can_compute_is_impossible() -> None:
    claim = refused(
        {"rtx3090": RTX_3090},
        device_id="rtx3090",
        model="Qwen3.6-27B-MTP-GGUF",
        model_type="hybrid",
        params_b="28",
        file_size_gb="",
        prefill_tok_s="8074.2",
        decode_tok_s="521.51",
    )
    assert claim.rule == "compute-roof"
    assert "TFLOP/s" in claim.reason


# --- rows that cannot be what they say ---


def test_a_processor_run_of_a_graphics_card_is_refused() -> None:
    claim = refused({"rtx3090": RTX_3090}, device_id="rtx3090", backend="llama.cpp CPU")
    assert claim.rule == "wrong-accelerator"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"decode_tok_s": "", "prefill_tok_s": ""}, "incomplete"),
        ({"decode_tok_s": "0", "prefill_tok_s": "0"}, "incomplete"),
        ({"device_id": ""}, "incomplete"),
        ({"model": " "}, "incomplete"),
        ({"source": ""}, "incomplete"),
        ({"decode_tok_s": "fast"}, "no-number"),
        ({"decode_tok_s": "nan"}, "no-number"),
        ({"decode_tok_s": "-3"}, "no-number"),
        ({"file_size_gb": "1e400"}, "no-number"),
        ({"model": "model not visible (37 layers)"}, "unnamed-model"),
        ({"model": "7B"}, "unnamed-model"),
        ({"model": "Mystery", "params_b": "", "file_size_gb": ""}, "unknown-size"),
        ({"prefill_tok_s": "1.0", "decode_tok_s": "1.0", "ttft_ms": "1.0"}, "placeholder"),
        ({"prefill_tok_s": "4", "decode_tok_s": "27"}, "contradiction"),
        ({"prompt_tokens": "512", "prefill_tok_s": "1000", "ttft_ms": "100"}, "contradiction"),
    ],
)
def test_each_rule_refuses_with_one_sentence(changes: dict[str, str], rule: str) -> None:
    found = refused(**changes)
    assert found.rule == rule
    assert found.reason.endswith(".")
    assert len(found.reason) < 300


def test_a_short_prompt_is_no_contradiction() -> None:
    row = kept(prefill_tok_s="4", notes="task short-chat; short prompt (prefill unreliable)")
    assert row.conditions == ("short-prompt",)


def test_one_measurement_told_twice_is_kept_once_with_the_fuller_row() -> None:
    short = raw(decode_tok_s="7.08", prefill_tok_s="", source="https://example.org/short")
    full = raw(decode_tok_s="7.08", prefill_tok_s="", power_w="15", notes="jetson-stats, MAXN")
    rows, found = clean([short, full], {})
    assert [row.power_w for row in rows] == [15]
    assert found[0].rule == "told-twice"
    assert found[0].source == "https://example.org/short"
    assert found[0].reason == (
        "The same measurement as the one kept from https://example.org/table."
    )


def test_a_vendors_one_measurement_for_several_fine_tunes_is_one() -> None:
    names = ("Llama-v3.1-8B-Instruct", "Llama-SEA-LION-v3.5-8B-R", "Llama3-TAIDE-LX-8B")
    same = {"decode_tok_s": "14.91757", "ttft_ms": "109.992", "prefill_tok_s": ""}
    rows, found = clean([raw(model=name, params_b="8", **same) for name in names], {})
    assert len(rows) == 1
    assert [one.rule for one in found] == ["told-twice", "told-twice"]


def test_a_run_that_swapped_is_refused_and_mere_spread_is_not() -> None:
    def runs(*rates: str) -> list[dict[str, object]]:
        return [raw(decode_tok_s=rate, prefill_tok_s="", file_size_gb="") for rate in rates]

    rows, found = clean(runs("0.12", "5.09", "15.05"), {})
    assert [row.decode_tokens_per_s for row in rows] == [5.09, 15.05]
    assert found[0].rule == "far-from-repeats"
    assert len(clean(runs("5.0", "9.0", "15.0"), {})[0]) == 3
    assert len(clean(runs("0.12", "15.05"), {})[0]) == 2, "one other run proves nothing"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"source": "https://fate-oracle.com/trap/apple-silicon-llm-bench"}, "untrusted"),
        ({"source": "https://nelsahost.com/gpu"}, "untrusted"),
        ({"model": "Qwen 3 7B"}, "untrusted"),
        ({"notes": "Estimated from the bandwidth"}, "not-one-measurement"),
        ({"notes": "batch 8; vLLM"}, "not-one-measurement"),
        ({"notes": "concurrency=16"}, "not-one-measurement"),
    ],
)
def test_sources_that_measured_nothing_or_something_else(
    changes: dict[str, str], rule: str
) -> None:
    assert refused(**changes).rule == rule


def test_one_stream_and_a_batch_of_prompt_tokens_are_one_measurement() -> None:
    assert not kept(notes="batch 1; concurrency 1").conditions
    assert not kept(notes="llama-bench, n_ubatch 2048, batch 2048").conditions
    kept(notes="the only row that page marks Verified; its other rows are Estimated")


# --- what is left out of a row ---


def test_energy_that_contradicts_its_own_power_is_left_out() -> None:
    row = kept(decode_tok_s="18.03", prefill_tok_s="", power_w="3.43", energy_j_per_token="0.725",
               notes="energy from battery delta 5%")  # fmt: skip
    assert row.energy_j_per_token is None
    assert row.power_w == 3.43
    assert set(row.conditions) == {"dropped:energy", "power-meter:battery"}
    assert kept(power_w="47.6", decode_tok_s="22", energy_j_per_token="2.17").energy_j_per_token


def test_kibibytes_taken_for_mebibytes_are_left_out() -> None:
    row = kept(peak_mem_mb="24259584")
    assert row.peak_memory_bytes is None
    assert row.conditions == ("dropped:memory",)


def test_a_megabyte_is_what_the_source_means_by_it() -> None:
    assert kept(peak_mem_mb="1000").peak_memory_bytes == 1_000_000_000
    row = kept(peak_mem_mb="1000", notes="peak_mem_mb = llama.cpp buffers total MiB (weights)")
    assert row.peak_memory_bytes == 1_048_580_000, "six digits are kept"


def test_the_tokens_of_a_whole_session_are_no_prompt() -> None:
    row = kept(prompt_tokens="1110", gen_tokens="30720", ttft_ms="120", prefill_tok_s="1481",
               notes="sustained energy task (~628s); thermal nominal->serious")  # fmt: skip
    assert (row.prompt_tokens, row.generate_tokens) == (None, None)
    assert row.conditions == ("dropped:tokens", "sustained", "throttled")


# --- the whole ---


def test_the_order_of_the_raw_rows_does_not_matter() -> None:
    rows = [
        raw(decode_tok_s="7.08", prefill_tok_s="", source="https://example.org/b"),
        raw(decode_tok_s="7.08", prefill_tok_s="", power_w="15"),
        raw(decode_tok_s="nonsense"),
        raw(decode_tok_s="27.1", gen_tokens="64"),
        raw(decode_tok_s="27.1", gen_tokens="128"),
        raw(device_id="rpi5", backend="llama.cpp CPU", decode_tok_s="2"),
    ]
    results = {clean(order, {}) for order in itertools.permutations(rows)}
    assert len(results) == 1


_CELL = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["", "0", "-1", "1e999", "nan", "12.5", "Q4_K_M", "30B-A3B", "qwen3", "x/"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(RAW_COLUMNS), _CELL), max_size=3))
def test_no_row_is_lost_or_makes_it_fail(rows: list[dict[str, str]]) -> None:
    full = [{**RAW, **row} for row in rows]
    taken, found = clean(full, {"jetson-agx-orin-64gb": AGX_ORIN})
    assert len(taken) + len(found) == len(rows)
    text = clean_measurements.table(COLUMNS, taken)
    assert read_published(text.splitlines(), "a.csv") == taken


def test_cells_beyond_the_columns_and_missing_ones_are_no_matter() -> None:
    rows, found = clean([{**RAW, None: ["extra"]}, {"device_id": None}], {})  # type: ignore[dict-item]
    assert (len(rows), len(found)) == (1, 1)


def test_no_shipped_row_breaks_a_rule_on_the_devices_as_their_profiles_are_now() -> None:
    """A profile whose bandwidth is mended downwards may make a row impossible: clean again then."""
    known = read_devices(Path(next(iter(profiles.__path__))) / "devices")
    for row in published_rows():
        refusals.check(row, known[row.device])


DEVICES = "id,class,mem_bandwidth_gbs,cpu_cores_big,gpu,fp16_tflops\n"


def write_raw(path: Path, *rows: dict[str, object]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, RAW_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_program_writes_both_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devices = tmp_path / "devices.csv"
    devices.write_text(f"{DEVICES}jetson-agx-orin-64gb,sbc,204.8,12,,\n,,x,,,\n", encoding="utf-8")
    source = write_raw(tmp_path / "raw.csv", raw(), raw(decode_tok_s="52"))
    arguments = [str(source), "--devices", str(devices), "--out", str(tmp_path / "out")]
    assert clean_measurements.main(arguments) == 0
    assert "1 rows kept, 1 refused" in capsys.readouterr().out
    text = (tmp_path / "out/measurements.csv").read_text(encoding="utf-8")
    assert [row.decode_tokens_per_s for row in read_published(text.splitlines(), "m")] == [27.1]
    with (tmp_path / "out/refused.csv").open(encoding="utf-8", newline="") as file:
        (claim,) = csv.DictReader(file)
    assert claim["rule"] == "bandwidth-roof"
    assert claim["decode_tokens_per_s"] == "52"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "measurements.csv",
        "refused.csv",
    ]


@pytest.mark.parametrize(
    "spoil", ["raw missing", "columns missing", "no text", "no devices", "bad profile"]
)
def test_the_program_says_in_one_sentence_what_was_wrong(
    spoil: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_raw(tmp_path / "raw.csv", raw())
    devices = tmp_path / "profiles"
    devices.mkdir()
    if spoil == "raw missing":
        source = tmp_path / "none.csv"
    if spoil == "columns missing":
        source.write_text("a,b\n1,2\n", encoding="utf-8")
    if spoil == "no text":
        source.write_bytes(b"device_id,\xff\n")
    if spoil == "bad profile":
        (devices / "x.toml").write_text("id = 3", encoding="utf-8")
    if spoil != "no devices" and spoil != "bad profile":
        devices = tmp_path / "devices.csv"
        devices.write_text(f"{DEVICES}a,sbc,1,,,\n", encoding="utf-8")
    arguments = [str(source), "--devices", str(devices), "--out", str(tmp_path / "out")]
    assert clean_measurements.main(arguments) == 2
    assert capsys.readouterr().err.startswith("Not cleaned: ")
    assert not (tmp_path / "out/measurements.csv").exists()


def test_devices_of_a_csv_are_bounds_where_they_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "devices.csv"
    file.write_text(
        f"{DEVICES}rtx3090,gpu,936,,NVIDIA,71\nrpi5,sbc,17,4,,\nodd,server,much,,EPYC,-3\n",
        encoding="utf-8",
    )
    found = read_devices(file)
    assert found["rtx3090"] == RTX_3090
    assert found["rpi5"] == DeviceFacts(bandwidth_bytes_per_s=17e9, fast_cores=4)
    assert found["odd"].bandwidth_bytes_per_s is None
