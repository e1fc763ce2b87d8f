"""The page is one safe file with everything in it, whoever's words it holds."""

from __future__ import annotations

from pathlib import Path

from coderllm_jax.reporting.comparison_report import write_comparison_report
from tests.reporting.comparisons import a_comparison
from tests.reporting.outline import Outline


def test_everything_is_on_it(tmp_path: Path) -> None:
    content = a_comparison()
    path = write_comparison_report(tmp_path, content)
    words = Outline(path.read_text(encoding="utf-8")).text
    for question in content["questions"]:
        assert question["question"] in words
        for given in question["answers"].values():
            assert given["text"] in words
