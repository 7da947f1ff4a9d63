"""Device files as their authors write them: a board with everything, and a discrete card."""

GOOD = """
id = "board"
name = "A Board"
maker = "Somebody"
class = "sbc"
soc = "XY1"
os = ["Linux"]
aliases = ["brd"]
as_of = "2026-11-22"
[cpu]
clusters = [ { name = "Cortex-A76", count = 4, max = "2.4 GHz" }, { name = "A55", count = 2 } ]
isa = ["neon", "dotprod"]
source = "sheet"
[memory]
sizes = ["8 GB", "4 GB"]
sizes_source = "sheet"
type = "LPDDR4X-4267 32-bit"
bandwidth = { value = "16 to 17 GB/s", kind = "stated", source = "sheet" }
[accelerators.gpu]
name = "A GPU"
apis = ["vulkan"]
bandwidth = { value = "9 GB/s", kind = "measured", source = "run", as_of = 2026-10-01, note = "n" }
fp16 = { value = "150 GFLOP/s", kind = "derived", source = "sheet", note = "4 x 2 x 1 GHz" }
[power]
tdp = { value = "12 W", kind = "stated", source = "sheet" }
[[power.modes]]
name = "low"
limit = { value = "5 W", kind = "stated", source = "sheet" }
default = true
[[products]]
id = "board-8gb"
name = "A Board, 8 GB"
sizes = ["8 GB"]
battery = { value = "10 Wh", kind = "stated", source = "sheet" }
os = "Android 15"
source = "run"
[sources]
sheet = "https://example.org/sheet"
run = "https://example.org/run"
"""

CARD = """
id = "card"
name = "A Card"
class = "gpu"
os = ["Windows"]
as_of = "2026-11-22"
[accelerators.gpu]
name = "A Card"
apis = ["cuda"]
memory = ["24 GB"]
bandwidth = { value = "1 TB/s", kind = "stated", source = "sheet" }
[sources]
sheet = "https://example.org/sheet"
"""
