"""The page is one safe file, from a run's folder alone, at any moment of the run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from coderllm_jax.monitoring.metrics_log import JsonLinesWriter
from coderllm_jax.records import Sample
from coderllm_jax.reporting.training_report import write_report
from coderllm_jax.reporting.training_text import describe_run
from coderllm_jax.training.record import RunRecord
from coderllm_jax.training.run_folder import RunFolder, write_json
from coderllm_jax.training.summary import summarize
from tests.reporting.outline import HOSTILE, Outline


def a_run(path: Path, *, status: str = "finished", words: str = "plain") -> RunFolder:
    folder = RunFolder(path)
    evaluations = [
        {"step": 0, "eval_loss": 5.0, "perplexity": 148.0, "token_accuracy": 0.2},
        {"step": 2, "eval_loss": 3.0, "perplexity": 20.0, "token_accuracy": 0.4},
    ]
    writer = JsonLinesWriter(folder, resumed_from=None)
    writer.write(evaluations[0])
    for step, loss in ((1, 4.5), (2, float("nan"))):
        writer.write(
            {
                "step": step,
                "loss": loss,
                "grad_norm": 1.0,
                "learning_rate": 1e-3,
                "tokens_per_s": 100.0,
                "memory_bytes": 2**30,
            }
        )
    writer.write(evaluations[1])
    writer.write_samples(0, [Sample(f"question {words}", f"before {words}", f"hoped {words}")])
    writer.write_samples(2, [Sample(f"question {words}", f"after {words}", f"hoped {words}")])
    writer.close()
    record = RunRecord(
        step=2,
        status=status,
        tokens=200,
        loss_tokens=90,
        train_s=4.0,
        wall_s=9.0,
        step_times_s=[2.0, 2.0],
        evaluations=evaluations,
        baseline_few_shot_loss=3.5,
        peak_memory_bytes=2**30,
    )
    figures: dict[str, Any] = {"adapter_parameters": 10, "flops_per_step": None, "peak_flops": None}
    write_json(folder.summary, summarize(record, model=words, examples=3, **figures))
    write_json(
        folder.manifest,
        {
            "identity": {},
            "created": "2026-01-01",
            "data": {"path": words, "kinds": {words: 3}, "tokens_per_example": {"p50": 30.0}},
            "model": {"name": words, "source": words},
        },
    )
    write_json(folder.config, {"workdir": words})
    return folder


def test_the_page_is_well_formed_and_loads_nothing(tmp_path: Path) -> None:
    html = write_report(a_run(tmp_path)).read_text()
    outline = Outline(html)
    assert "script" not in outline.tags
    assert "link" not in outline.tags
    addresses = [value for name, value in outline.attributes if name in ("src", "href")]
    assert addresses == []
    assert not re.search(r"url\(|https?://|@import", html)
    assert "default-src 'none'" in html


def test_words_of_others_stay_words(tmp_path: Path) -> None:
    html = write_report(a_run(tmp_path, words=HOSTILE)).read_text()
    outline = Outline(html)
    assert not {"script", "img"} & set(outline.tags)
    assert not any(name.startswith("on") for name, _ in outline.attributes)
    text = "".join(outline.words)
    for where in ("question", "before", "after", "hoped"):
        assert f"{where} {HOSTILE}" in text


def test_shows_the_two_losses_the_advice_and_the_answers(tmp_path: Path) -> None:
    words = " ".join(Outline(write_report(a_run(tmp_path)).read_text()).words)
    for shown in ("5.000", "3.000", "0.60 of the start", "3.500", "before plain", "after plain"):
        assert shown in words
    assert "(1 values were not finite)" in words
    assert "What to do next" in words


def test_a_running_page_reloads_itself_and_a_finished_one_does_not(tmp_path: Path) -> None:
    running = write_report(a_run(tmp_path / "a", status="running"))
    finished = write_report(a_run(tmp_path / "b"))
    assert 'http-equiv="refresh"' in running.read_text()
    assert 'http-equiv="refresh"' not in finished.read_text()
    assert not (running.parent / "loss.png").exists()
    assert (finished.parent / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_run_before_its_first_evaluation_has_a_page(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    figures: dict[str, Any] = {"adapter_parameters": 10, "flops_per_step": None, "peak_flops": None}
    write_json(folder.summary, summarize(RunRecord(), model="tiny", examples=0, **figures))
    write_json(folder.manifest, {})
    write_json(folder.config, {})
    Outline(write_report(folder).read_text())


def test_making_it_again_gives_the_same_page(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


@pytest.mark.parametrize("status", ["finished", "diverged"])
def test_the_terminal_says_the_same_in_a_few_lines(tmp_path: Path, status: str) -> None:
    said = describe_run(a_run(tmp_path, status=status).path)
    assert "evaluation loss 5.000 → 3.000 (0.60 of it) at step 2" in said
    assert "few-shot prompt: 3.500" in said
    assert "before    before plain" in said
    assert "after     after plain" in said
    assert len(said.splitlines()) < 10


def test_raw_figures_are_valid_json_in_the_page(tmp_path: Path) -> None:
    outline = Outline(write_report(a_run(tmp_path)).read_text())
    raw = [word for word in outline.words if word.startswith("{")]
    assert [type(json.loads(word)) for word in raw] == [dict] * 3
