"""What sources call engines and quantization levels, in this project's words.

A name nobody has seen before never fails: what can be told from it is told, the rest stays empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What ran the model: an engine, on an accelerator, through an API; "" where it is not said."""

    engine: str
    accelerator: str = ""
    api: str = ""
    conditions: tuple[str, ...] = ()


# The first that is found in the name, small letters, decides.
_ENGINES = (
    ("ik_llama", "ik_llama.cpp"),
    ("llamafile", "llamafile"),
    ("xdna2 npu decode", "llama.cpp"),
    ("llama.cpp", "llama.cpp"),
    ("llamacpp", "llama.cpp"),
    ("llama-cpp", "llama.cpp"),
    ("ollama", "ollama"),
    ("mlx", "mlx"),
    ("litert", "litert-lm"),
    ("mediapipe", "mediapipe"),
    ("executorch", "executorch"),
    ("coreml", "coreml"),
    ("core ml", "coreml"),
    ("core ai", "core-ai"),
    ("foundation models", "apple-foundation-models"),
    ("qnn", "qnn-genie"),
    ("genie", "qnn-genie"),
    ("rkllm", "rkllm"),
    ("openvino", "openvino"),
    ("tensorrt edge", "tensorrt-edge-llm"),
    ("tensorrt-edge", "tensorrt-edge-llm"),
    ("tensorrt", "tensorrt-llm"),
    ("vllm", "vllm"),
    ("sglang", "sglang"),
    ("exllama", "exllama"),
    ("mlc", "mlc"),
    ("t-mac", "t-mac"),
    ("fastflowlm", "fastflowlm"),
    ("ryzen ai", "ryzen-ai"),
    ("hailo", "hailo"),
    ("cactus", "cactus"),
    ("lm studio", "lm-studio"),
    ("lm-studio", "lm-studio"),
    ("onnx", "onnxruntime"),
    ("bitnet.cpp", "bitnet.cpp"),
    ("nano c engine", "nano"),
)  # fmt: skip
UNKNOWN_ENGINE = "unknown"

# What stands in the name, and then the accelerator and the API. The first that is found decides.
_APIS = (
    ("clblast", "cpu", "cpu"),
    ("xdna", "npu", "xdna"),
    ("ryzen ai sw npu", "npu", "xdna"),
    ("hexagon", "npu", "hexagon"),
    ("rkllm", "npu", "rknn"),
    ("hailo", "npu", "hailo"),
    ("(ane)", "npu", "ane"),
    (" ane", "npu", "ane"),
    ("xnnpack", "cpu", "cpu"),
    ("rocm/vulkan", "gpu", ""),
    ("opencl", "gpu", "opencl"),
    ("android prebuilt apk", "gpu", "opencl"),
    ("vulkan", "gpu", "vulkan"),
    ("cuda", "gpu", "cuda"),
    ("tensorrt", "gpu", "cuda"),
    ("marlin", "gpu", "cuda"),
    ("rocm", "gpu", "rocm"),
    ("hip", "gpu", "rocm"),
    ("sycl", "gpu", "sycl"),
    ("xpu", "gpu", "sycl"),
    ("metal", "gpu", "metal"),
    ("mlx", "gpu", "metal"),
    ("core ai gpu", "gpu", "metal"),
    ("cpu/gpu", "", ""),
    ("gpu", "gpu", ""),
    ("npu", "npu", ""),
    ("cpu", "cpu", "cpu"),
    ("t-mac", "cpu", "cpu"),
)


def backend(name: str) -> Backend:
    """Takes a source's name of a backend apart."""
    low = name.lower()
    engine = next((ours for theirs, ours in _ENGINES if theirs in low), UNKNOWN_ENGINE)
    accelerator, api = next(((a, i) for said, a, i in _APIS if said in low), ("", ""))
    conditions = []
    if " prefill + " in low:
        conditions.append("split-accelerators")
    if re.search(r"\d+/\d+ layers", low):
        conditions.append("partial-offload")
    if "android prebuilt apk" in low:
        conditions.append("api-inferred")
    if engine == "nano":
        conditions.append("custom-engine")
    return Backend(engine=engine, accelerator=accelerator, api=api, conditions=tuple(conditions))


_APPLE = re.compile(r"^(apple|iphone|ipad|macbook|mac)-|^(m\d|a\d\d)(-|$)")
_NVIDIA = re.compile(
    r"^(nvidia|geforce|rtx|gtx|jetson|tesla|quadro)|^[ablthvp]\d{2,4}s?(-|$)|^(gb10|gh200|dgx)"
)


_AMD = re.compile(r"^(rx-?\d|radeon)")


def inferred_api(engine: str, accelerator: str, device: str) -> str:
    """The API of an engine on a device where only one is possible, else "".

    Apple's GPUs are reached through Metal alone. Ollama and vLLM use CUDA on NVIDIA's and ROCm on
    AMD's cards; llama.cpp has Vulkan besides, so nothing follows for it.
    """
    if accelerator == "cpu":
        return "cpu"
    if accelerator == "gpu" and _APPLE.search(device):
        return "metal"
    if accelerator == "gpu" and engine in ("ollama", "vllm"):
        return "cuda" if _NVIDIA.search(device) else "rocm" if _AMD.search(device) else ""
    return ""


def always_on_gpu(engine: str, device: str) -> bool:
    """Whether such a tool, when nothing else is said, runs on the GPU of such a device."""
    return engine in ("ollama", "llama.cpp", "mlx", "vllm") and bool(
        _APPLE.search(device) or _NVIDIA.search(device) or _AMD.search(device)
    )


_GGUF_LEVEL = re.compile(
    r"(?<![a-z0-9])(?P<ud>ud-)?(?P<level>"
    r"i?q[1-8]_k_(?:xxs|xs|xl|s|m|l|p)|q[2-8]_k|q8_k|q[1-8]_[01]|i?q[1-4]_(?:xxs|xs|nl|s|m)"
    r"|tq[12]_0|mxfp4|nvfp4|mxfp8|bf16|f16|fp16|f32|fp32)(?![a-z0-9])"
)
_K_SIZES = {"small": "S", "medium": "M", "large": "L"}
_ALIASES = {"FP16": "F16", "FP32": "F32", "W16A16": "F16"}
# Tried in order on the text in small letters.
_OTHER_LEVELS = (
    (re.compile(r"(?<![a-z0-9])w(\d+)a(\d+)"), "W{}A{}"),
    (re.compile(r"(?<![a-z0-9])w(\d+)(?![a-z0-9])"), "W{}"),
    (re.compile(r"t-mac (\d)-bit"), "W{}"),
    (re.compile(r"int(\d+)"), "INT{}"),
    (re.compile(r"fp8"), "FP8"),
    (re.compile(r"(?<![a-z0-9])cq(\d)"), "INT{}"),
    (re.compile(r"(?<![a-z0-9])q4f16"), "INT4"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A level in this project's words, and whether the source states it."""

    name: str
    inferred: bool = False


def level(quant: str, engine: str, model: str) -> Level:
    """Reads a source's name of a quantization level; of the model's own name where it has none.

    Levels of GGUF files come out as llama.cpp names them, `UD-` before Unsloth's mixtures; others
    as a family: INT4, INT8, W4A16 ... Q4 is 4 bits of an unstated GGUF type, "" anything.
    """
    text = quant.strip().lower()
    named = _gguf_level(text)
    if text.startswith("fp16/bf16"):
        return Level(name="F16", inferred=True)
    if named and "bf16/fp32" not in text:
        return Level(name=named, inferred="ollama" in text)
    if named or "apple-quant" in text or "litertlm" in text:
        return Level(name="")
    for pattern, form in _OTHER_LEVELS:
        if found := pattern.search(text):
            name = form.format(*found.groups())
            return Level(name=_ALIASES.get(name, name), inferred="not stated" in text)
    if "ollama default" in text:
        return _default_level(text, engine, model.lower())
    if found := re.match(r"q?(\d)(?:[ -]?bit)?(?![0-9_])", text):
        gguf = engine in ("llama.cpp", "ollama", "lm-studio", "llamafile", "ik_llama.cpp")
        return Level(name=f"Q{found[1]}" if gguf else f"INT{found[1]}")
    if text.startswith("q") and (found := re.match(r"q(\d)", text)):
        return Level(name=f"Q{found[1]}")
    if not text and (named := _gguf_level(model.lower())):
        return Level(name=named)
    return _default_level(text, engine, model.lower())


_LIBRARY_TAG = re.compile(r"^[a-z0-9.-]+:(latest|\d+(\.\d+)?[bm])$")
_OTHER_DEFAULTS = (("gpt-oss", "MXFP4"), ("llama2", "Q4_0"), ("llama3.2:1b", "Q8_0"))


def _default_level(text: str, engine: str, model: str) -> Level:
    """What Ollama's library serves where no level is asked for.

    Q4_K_M since the end of 2024 (https://github.com/ollama/ollama/issues/1543), but for what is
    older, published in another format, or of one billion parameters.
    """
    asked = "ollama default" in text or (
        not text and engine == "ollama" and _LIBRARY_TAG.match(model)
    )
    if not text and "gpt-oss" in model:
        asked = True
    if not asked:
        return Level(name="")
    other = next((level for name, level in _OTHER_DEFAULTS if model.startswith(name)), "")
    return Level(name=other or "Q4_K_M", inferred=True)


def _gguf_level(text: str) -> str:
    found = _GGUF_LEVEL.search(text)
    if not found:
        return ""
    name = found["level"].upper()
    size = re.match(r"\s*-\s*(small|medium|large)", text[found.end() :])
    if size and name.endswith("_K"):
        name += f"_{_K_SIZES[size[1]]}"
    unsloth = found["ud"] or name.endswith("_XL")
    return ("UD-" if unsloth else "") + _ALIASES.get(name, name)


# The fewest bits a weight of the bulk takes; mixtures only have more.
_LEAST_BITS = {
    "Q2_K": 2.625, "Q3_K": 3.4375, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625, "Q8_0": 8.5,
    "Q4_0": 4.5, "Q4_1": 5.0, "Q5_0": 5.5, "Q5_1": 6.0, "IQ4_NL": 4.5, "IQ4_XS": 4.25,
    "IQ3_S": 3.4375, "IQ3_M": 3.4375, "IQ3_XS": 3.0625, "IQ3_XXS": 3.0625, "IQ2_M": 2.5,
    "IQ2_S": 2.3125, "IQ2_XS": 2.3125, "IQ2_XXS": 2.0625, "IQ1_M": 1.75, "IQ1_S": 1.5625,
    "MXFP4": 4.25, "NVFP4": 4.5, "BF16": 16.0, "F16": 16.0, "F32": 32.0, "FP8": 8.0,
}  # fmt: skip


def least_bits(name: str) -> float | None:
    """The fewest bits a weight can have at that level; None where nothing is known of it.

    Block sizes of ggml's types, scales included; Unsloth's mixtures may go two bits below their
    name, so theirs is 4 bits for Q4 and above, else 1.5.
    """
    if name.startswith("UD-"):
        digit = re.search(r"\d+", name)
        return None if digit is None else 4.0 if int(digit[0]) >= 4 else 1.5
    base = re.sub(r"_(S|M|L|P)$", "", name) if "_K_" in name else name
    if base in _LEAST_BITS:
        return _LEAST_BITS[base]
    found = re.match(r"(?:INT|W|Q)(\d+)", name)
    return float(found[1]) if found else None
