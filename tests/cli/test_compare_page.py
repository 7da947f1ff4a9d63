"""The commands of docs/compare.md that need no engine run, on hand-made records."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from edge_runtime.comparison.rule import METRICS
from tests.score_records import several_levels

PAGE = Path(__file__).parents[2] / "docs" / "compare.md"

Edge = Callable[..., tuple[int, str, str]]


def commands() -> list[list[str]]:
    """Of saved comparisons: shown again, held against another, made a page."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    lines = [shlex.split(line, comments=True) for line in "".join(blocks).splitlines()]
    saved = ("compared.jsonl", "results/*.json", "--baseline")
    return [words[1:] for words in lines if any(word in saved for word in words[2:3])]


def test_the_commands_for_saved_comparisons_run(edge: Edge, tmp_path: Path) -> None:
    lines = "".join(json.dumps(record.to_json()) + "\n" for record in several_levels())
    for name in ("compared.jsonl", "old.json", "new.json", "results/1.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(lines, "utf-8")
    typed = commands()
    assert [words[0] for words in typed] == ["compare", "compare", "report", "report"]
    for words in typed:
        code, out, err = edge(*(word.replace("*", "1") for word in words))
        assert code in ((0, 1) if "--baseline" in words else (0,)), (words, err)
        assert out or (tmp_path / "report.html").stat().st_size, words


def test_the_page_names_every_metric_of_a_rule() -> None:
    text = PAGE.read_text("utf-8")
    assert [metric for metric in METRICS if f"`{metric}`" not in text] == []
