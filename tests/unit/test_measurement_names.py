"""What names of backends, levels, models and conditions become when measurements are cleaned."""

import pytest
from raw_measurements import kept

from scripts.measurements.devices import DeviceFacts
from scripts.measurements.models import known_model, plain_name
from scripts.measurements.names import backend, inferred_api, least_bits, level


@pytest.mark.parametrize(
    ("name", "engine", "accelerator", "api"),
    [
        ("llama.cpp CPU", "llama.cpp", "cpu", "cpu"),
        ("llama.cpp/Ollama GPU (backend not stated)", "llama.cpp", "gpu", ""),
        ("ik_llama.cpp CPU", "ik_llama.cpp", "cpu", "cpu"),
        ("llamafile ROCm/Vulkan (not stated)", "llamafile", "gpu", ""),
        ("llama.cpp Hexagon", "llama.cpp", "npu", "hexagon"),
        ("llama.cpp CPU (CLBlast build)", "llama.cpp", "cpu", "cpu"),
        ("ExecuTorch XNNPACK CPU (react-native)", "executorch", "cpu", "cpu"),
        ("RKLLM NPU", "rkllm", "npu", "rknn"),
        ("MLX Swift", "mlx", "gpu", "metal"),
        ("LiteRT-LM GPU (OpenCL)", "litert-lm", "gpu", "opencl"),
        ("LiteRT-LM", "litert-lm", "", ""),
        ("OpenVINO (CPU/GPU not stated in CSV)", "openvino", "", ""),
        ("LM Studio iGPU (Vulkan)", "lm-studio", "gpu", "vulkan"),
        ("Apple Core AI ANE", "core-ai", "npu", "ane"),
        ("QNN/Genie Hexagon NPU (genie)", "qnn-genie", "npu", "hexagon"),
        ("TensorRT Edge-LLM", "tensorrt-edge-llm", "gpu", "cuda"),
        ("vLLM XPU (SYCL)", "vllm", "gpu", "sycl"),
        ("T-MAC CPU", "t-mac", "cpu", "cpu"),
        ("some new thing", "unknown", "", ""),
        ("", "unknown", "", ""),
    ],
)
def test_backends(name: str, engine: str, accelerator: str, api: str) -> None:
    found = backend(name)
    assert (found.engine, found.accelerator, found.api) == (engine, accelerator, api)


def test_an_api_is_inferred_only_where_there_is_one() -> None:
    assert inferred_api("llama.cpp", "gpu", "apple-m4") == "metal"
    assert inferred_api("ollama", "gpu", "rtx4090") == "cuda"
    assert inferred_api("llama.cpp", "gpu", "rtx4090") == "", "Vulkan is possible too"
    assert inferred_api("ollama", "gpu", "core-ultra-7-258v") == ""
    row = kept(device_id="apple-m4", backend="ollama (via llmfit)")
    assert (row.accelerator, row.api) == ("gpu", "metal")
    assert row.has("api-inferred")


@pytest.mark.parametrize(
    ("quant", "name"),
    [
        ("q4_k_m", "Q4_K_M"),
        ("Q4_K_M (Ollama/GGUF default)", "Q4_K_M"),
        ("IQ2_XXS - 2.0625 bpw", "IQ2_XXS"),
        ("Q3_K - Small", "Q3_K_S"),
        ("Q4_K", "Q4_K"),
        ("UD-Q4_K_XL-QAT", "UD-Q4_K_XL"),
        ("Q8_K_XL", "UD-Q8_K_XL"),
        ("MXFP4 MoE", "MXFP4"),
        ("w4a16_g128", "W4A16"),
        ("W16A16", "F16"),
        ("T-MAC 2-bit", "W2"),
        ("int4 g128", "INT4"),
        ("INT8-CW", "INT8"),
        ("GPTQ-Int4", "INT4"),
        ("Q4 (Ollama default)", "Q4_K_M"),
        ("4-bit (type not stated)", "Q4"),
        ("q5 (2023-05 format)", "Q5"),
        ("bf16/fp32 (not stated)", ""),
        (".litertlm", ""),
        ("not stated", ""),
        ("", ""),
    ],
)
def test_levels(quant: str, name: str) -> None:
    assert level(quant, "llama.cpp", "a model").name == name


def test_what_a_source_says_beside_its_table() -> None:
    row = kept(
        device_id="rtx4090",
        backend="llama.cpp/Ollama GPU (backend not stated)",
        source="github:x README.md ; https://github.com/geerlingguy/ai-benchmarks/issues/43",
    )
    assert (row.engine, row.api, row.conditions) == ("llama.cpp", "vulkan", ())
    table = "github:openvinotoolkit/openvino a/benchmarks_files/llm_models_7-258V.csv@1"
    row = kept(backend="OpenVINO (CPU/GPU not stated in CSV)", source=table)
    assert (row.engine, row.accelerator) == ("openvino", "gpu")


def test_a_level_stands_in_a_models_name_where_the_row_has_none() -> None:
    assert level("", "ollama", "qwen3.6:27b-mtp-q8_0").name == "Q8_0"
    assert level("", "ollama", "llama3.1:8b").name == "Q4_K_M"
    assert level("", "ollama", "llama3.1:8b").inferred
    assert level("", "ollama", "llama3.2:1b").name == "Q8_0"
    assert level("", "ollama", "gpt-oss:20b").name == "MXFP4"
    assert level("", "ollama", "someone/thing:8b").name == ""
    assert level("", "mlx", "qwen3.5:9b").name == ""
    assert level("Q4 (Ollama default)", "ollama", "llama2:13b").name == "Q4_0"
    assert level("4bit", "mlx", "x").name == "INT4"
    assert level("FP16/BF16", "unknown", "x").inferred


def test_bits_of_a_level_are_a_lower_bound() -> None:
    assert least_bits("Q4_K_M") == 4.5
    assert least_bits("W4A16") == 4
    assert least_bits("") is None
    assert least_bits("UD-Q4_K_XL") == 4


@pytest.mark.parametrize(
    ("name", "said", "model_id", "model_type"),
    [
        ("Llama 3.2 1B Instruct", 1.498, "llama-3.2-1b", "dense"),
        ("unsloth/gemma-4-E2B-it-GGUF/Q4_K_M", None, "", "ple"),
        ("deepseek-r1:7b", 7, "qwen2.5-7b", "dense"),
        ("QWEN2_5_0_5B_QUANTIZED", None, "qwen2.5-0.5b", "dense"),
        ("Qwen3.5-0.8B", 0.8, "", "hybrid"),
        ("qwen3moe 30B.A3B Q8_0", 30.53, "qwen3-30b-a3b", "moe"),
        ("lfm2.5:8b", 8, "", "moe"),
        ("mistral-7b-v0.1", None, "", "dense"),
        ("Llama 3.2:3b", 3.21, "llama-3.2-3b", "dense"),
    ],
)
def test_models(name: str, said: float | None, model_id: str, model_type: str) -> None:
    found = known_model(name, said, "dense")
    assert (found.model_id, found.model_type) == (model_id, model_type)
    assert found.parameters


def test_parameters_are_of_one_copy_of_the_model() -> None:
    assert known_model("Llama 3.2 1B Instruct", 1.498, "dense").parameters == 1_235_814_400
    row = kept(model="qwen3 1.7B", params_b="2.03", quant="F16", file_size_gb="4.0587")
    assert row.parameters == 1.72057e9
    assert row.conditions == ("embedding-twice",)


def test_buffers_hold_a_shared_embedding_twice() -> None:
    notes = "file_size = loaded weight buffers 2059.1 MiB"
    shared = kept(model="qwen3-1.7b", params_b="1.7", file_size_gb="2.15909", notes=notes)
    assert shared.conditions == ("embedding-twice",)
    alone = kept(model="phi-3.5-mini", params_b="", file_size_gb="4.06", notes=notes)
    assert alone.conditions == ()


def test_an_unknown_mixture_is_read_from_its_name() -> None:
    found = known_model("someone_New-Thing-40B-A2.5B-Q4_K_M.gguf", 40, "dense")
    assert (found.model_type, found.parameters, found.active_parameters) == ("moe", 40e9, 2.5e9)
    assert known_model("DeepSeekOCR 3B(A570M)", 3, "moe").active_parameters == 570e6
    assert known_model("Thing 350M", None, "dense").parameters == 350e6


def test_a_users_word_that_a_model_is_dense_is_not_taken() -> None:
    row = kept(model="Someones-35B", params_b="35", file_size_gb="",
               notes="localmaxxing scrape, user-submitted, unverified")  # fmt: skip
    assert row.model_type == "unknown"


def test_names_lose_folders_endings_and_levels() -> None:
    assert plain_name("/home/x/models/Qwen3.5-0.8B-Q8_0.gguf") == "Qwen3.5-0.8B"
    assert plain_name("bartowski/Llama-3.2-1B-Instruct-GGUF/Q4_K_M") == "Llama-3.2-1B-Instruct"
    assert plain_name("hf.co/unsloth/Mistral-Small-3.2-GGUF:Q4_K_M") == "Mistral-Small-3.2"


@pytest.mark.parametrize(
    ("notes", "condition"),
    [
        ("GPU attached to a Raspberry Pi (PCIe x1)", "pcie-x1"),
        ("GPU/CPU; partial CPU offload", "partial-offload"),
        ("power-capped 30W mode, stock clocks", "power-mode:30W"),
        ("llama-bench, MAXN + jetson_clocks", "power-mode:MAXN"),
        ("tps = output tokens / wall time incl. prefill", "wall-time"),
        ("2.6 GHz; average of 5", "clock-limited"),
        ("CPU run falls 6.4 -> 2.7 tok/s (throttling)", "throttled"),
        ("published as integer tok/s", "integer"),
        ("env vulkan_radv, context=default", "driver:radv"),
        ("pp512 with 16 threads, tg128 with 2 threads", "prefill-threads:16"),
        ("vendor-published, integers", "vendor"),
    ],
)
def test_notes_become_conditions(notes: str, condition: str) -> None:
    assert condition in kept(notes=notes).conditions


def test_the_highest_clock_is_no_limit() -> None:
    assert kept(notes="max freq ~3.4 GHz; average of 5").conditions == ()


def test_few_threads_are_said_against_the_cores_there_are() -> None:
    box: dict[str, DeviceFacts | float] = {"box": DeviceFacts(fast_cores=8)}
    cpu = {"device_id": "box", "backend": "llama.cpp CPU"}
    assert kept(box, **cpu, threads="4").has("thread-limited")
    assert not kept(box, **cpu, threads="6").has("thread-limited")
    assert not kept(box, **cpu).has("thread-limited")
