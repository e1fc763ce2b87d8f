"""The page of a training run, made from its folder alone, so that it can be made again."""

from __future__ import annotations

import html
from pathlib import Path

from coderllm_jax.training.run_folder import RunFolder, read_json


def write_report(folder: RunFolder) -> Path:
    """Writes report/index.html; returns its path."""
    page = folder.report / "index.html"
    folder.report.mkdir(parents=True, exist_ok=True)
    rows = "".join(
        f"<tr><th>{html.escape(name)}<td>{html.escape(str(value))}"
        for name, value in read_json(folder.summary).items()
    )
    page.write_text(f"<!doctype html><meta charset=utf-8><table>{rows}</table>", encoding="utf-8")
    return page
