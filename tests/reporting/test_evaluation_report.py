"""The page is one safe file, whatever suites found and whoever's words they hold."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from coderllm_jax.reporting.evaluation_report import render, write_evaluation_report
from coderllm_jax.reporting.evaluation_text import describe_results
from tests.reporting.evaluations import a_figure, an_evaluation, the_code, the_content
from tests.reporting.outline import HOSTILE, Outline, assert_is_safe

SUITES = ("code_generation", "qa_accuracy", "performance", "robustness", "regression")
Evaluation = tuple[dict[str, Any], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return an_evaluation(num_problems=48, num_items=48)


@pytest.fixture(scope="module")
def page(evaluation: Evaluation) -> str:
    return render(*evaluation)


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    assert_is_safe(page)


def test_words_of_others_stay_words() -> None:
    outline = assert_is_safe(render(*an_evaluation(words=HOSTILE)))
    styles = [value for name, value in outline.attributes if name == "style"]
    assert styles
    assert not any("x" in style.replace("flex", "") for style in styles)
    for where in (
        "gemma3_270m + lora",  # the model's name
        'def first(numbers):\n    """The first number.',  # a question
        "NameError: name 'numbers' is not defined",  # what the sandbox says
        "2 examples are left out",  # a note
        "Which arguments does optax.sgd take, and what are they?",
        "it leaks",
        "it is empty",
        "Waht does optax.adam do?",
        "It takes Adam's steps.",
    ):
        assert where + HOSTILE in outline.text, where


def test_every_suite_is_there_with_its_main_figures(evaluation: Evaluation, page: str) -> None:
    words = Outline(page).text
    content, _ = evaluation
    for suite in SUITES:
        for name, figure in content["suites"][suite]["figures"].items():
            if name.endswith(("pass@1", "/fact_f1", "/identical", "/passed", "_drop")):
                assert f"{figure['value']:.3f}" in words, name
                assert f"{figure['low']:.3f} to {figure['high']:.3f}" in words, name
    for title in (
        "Code generation",
        "Questions and answers",
        "Performance",
        "Robustness",
        "Regression",
        "What it says",
    ):
        assert title in words
    for signature in ("nrefs:1", "tok:none"):
        assert signature in words
    # Warm-up is apart: what JAX compiled then stands in no figure of the load.
    assert "of it compiling" in words
    assert "5.20 s" in words


def test_failures_are_shown_with_question_program_and_reason(
    evaluation: Evaluation, page: str
) -> None:
    _, samples = evaluation
    words = Outline(page).text
    failed = [row for row in samples if row.get("verdict") not in (None, "passed")]
    assert failed
    for row in failed:
        assert row["task_id"] in words
        assert row["completion"] in words
        assert f"{row['verdict']} · {row['cause']} · {row['reason']}" in words


def test_few_kinds_of_failure_do_not_hide_the_others() -> None:
    code = the_code(num_problems=400)
    html = render(the_content([code]), code.samples)
    failed = sum(row["verdict"] != "passed" for row in code.samples)
    words = Outline(html).text
    assert f"and {failed - 60:,} more in samples.jsonl" in words
    shown = re.findall(r"(?:human_eval|hand_written)/\d+", words)
    assert len(shown) == 60
    causes = {row["cause"] for row in code.samples if row["cause"]}
    assert all(f" · {cause} · " in words for cause in causes)
    assert {name.split("/")[0] for name in shown} == {"human_eval", "hand_written"}


def test_the_worst_and_the_best_answers_stand_beside_their_references(
    evaluation: Evaluation, page: str
) -> None:
    _, samples = evaluation
    words = Outline(page).text
    answers = [row for row in samples if row["suite"] == "qa_accuracy"]
    for split in ("seen", "unseen"):
        ranked = sorted(
            (row for row in answers if row["split"] == split),
            key=lambda row: row["scores"]["fact_f1"],
        )
        assert f"The 5 worst answers, {split}" in words
        for row in (ranked[0], ranked[-1]):
            assert row["answer"] in words
            assert row["reference_answer"] in words
    assert "missed: " in words


def test_an_answer_says_how_it_ended_and_what_the_judge_thinks(evaluation: Evaluation) -> None:
    content, samples = copy.deepcopy(evaluation)
    suite = content["suites"]["qa_accuracy"]
    rows = [row for row in samples if row["suite"] == "qa_accuracy"]
    worst = min(rows, key=lambda row: row["scores"]["fact_f1"])
    worst |= {"finish": "length", "run": "NameError: name 'x' is not defined"}
    suite["details"]["judge"] = {worst["id"]: "second"}
    suite["figures"]["judge/at_least_as_good"] = a_figure(0.25)
    words = Outline(render(content, rows)).text
    for shown in (
        "cut off at its longest",
        "NameError: name 'x' is not defined",
        "the judge likes the reference better",
        "at least as good as the reference",
    ):
        assert shown in words
        assert shown not in Outline(render(*evaluation)).text


def test_a_failed_gate_comes_first_and_shows_items(page: str) -> None:
    headings = re.findall(r"<h2>([^<]*)</h2>", page)
    assert headings[:2] == ["What it says", "Regression"]
    words = Outline(page).text
    assert "regression gate failed" in words
    assert "items got worse" in words
    assert "It answers worse than the baseline." in words


def test_a_passed_gate_comes_last(evaluation: Evaluation) -> None:
    content = copy.deepcopy(evaluation[0])
    content["suites"]["regression"]["details"] |= {"gate": "passed", "regressions": []}
    page = render(content, evaluation[1])
    assert re.findall(r"<h2>([^<]*)</h2>", page)[-2] == "Regression"
    assert "regression gate passed" in Outline(page).text


@pytest.mark.parametrize("left_out", SUITES)
def test_a_suite_may_be_missing(evaluation: Evaluation, left_out: str) -> None:
    content = {
        **evaluation[0],
        "suites": {k: v for k, v in evaluation[0]["suites"].items() if k != left_out},
    }
    samples = [row for row in evaluation[1] if row["suite"] != left_out]
    assert_is_safe(render(content, samples))


def test_figures_may_be_undefined_and_samples_missing(evaluation: Evaluation) -> None:
    content = copy.deepcopy(evaluation[0])
    for suite in content["suites"].values():
        suite["figures"] = {name: a_figure(None) for name in suite["figures"]}
    for samples in (evaluation[1], []):
        outline = assert_is_safe(render(content, samples))
        assert "\u2013" in outline.text
        assert not re.search(r"\b(None|nan)\b", outline.text)


def test_figures_without_an_interval_have_no_whisker(evaluation: Evaluation) -> None:
    content = copy.deepcopy(evaluation[0])
    for suite in content["suites"].values():
        for figure in suite["figures"].values():
            figure |= {"low": None, "high": None}
    assert 'class="whisker"' not in render(content, evaluation[1])
    assert 'class="whisker"' in render(*evaluation)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"suites": {}},
        {"suites": {"qa_accuracy": {}}},
        {"suites": {suite: {} for suite in SUITES}},
        {"manifest": {"samples": "answers.jsonl"}},
    ],
)
def test_next_to_nothing_is_a_page_too(content: dict) -> None:
    assert_is_safe(render(content, []))
    assert describe_results(Path("here"), content)


def test_a_suite_that_nobody_knows_is_shown_by_its_figures_and_notes() -> None:
    content = {
        "suites": {
            "taste": {
                "figures": {"salt/grains_per_s": a_figure(12.0, low=11.0, high=13.0)},
                "notes": ["a pinch"],
                "details": {"cook": HOSTILE},
            }
        }
    }
    words = assert_is_safe(render(content, [{"suite": "taste", "id": "1"}])).text
    for shown in ("taste", "salt/grains_per_s", "12.0/s", "11.0/s to 13.0/s", "a pinch"):
        assert shown in words
    assert json.dumps(HOSTILE) in words


def test_refused_programs_are_not_called_wrong() -> None:
    code = the_code()
    refused = [
        {**row, "verdict": "refused", "cause": "refused", "reason": "no sandbox here"}
        for row in code.samples
    ]
    content = the_content(
        [
            dataclasses.replace(
                code,
                figures={
                    "human_eval/pass@1": code.figures["human_eval/pass@1"]._replace(value=None)
                },
                samples=refused,
                notes=["human_eval: 24 programs were not executed: no sandbox here"],
            )
        ]
    )
    words = Outline(render(content, refused)).text
    assert "How much of HumanEval it solves is not known." in words
    assert "refused · refused · no sandbox here" in words


def test_is_written_whole_or_not_at_all(
    tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_evaluation_report(tmp_path, *evaluation)
    assert path == tmp_path / "report" / "index.html"
    assert [each.name for each in path.parent.iterdir()] == ["index.html"]
    first = path.read_bytes()

    def half(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        write_evaluation_report(tmp_path, {"suites": {}}, [])
    assert path.read_bytes() == first


def test_what_cannot_be_seen_is_written_out(tmp_path: Path) -> None:
    code = the_code()
    hidden = "s = '\ud800 \u202e \u200b \x1b \x00 \r'\n\tpass"
    rows = [{**row, "completion": hidden} for row in code.samples]
    page = write_evaluation_report(tmp_path, the_content([code]), rows).read_text(encoding="utf-8")
    assert "s = '\\ud800 \\u202e \\u200b \\x1b \\x00 \\r'\n\tpass" in Outline(page).text


def test_what_is_no_unicode_is_written_wherever_it_stands(tmp_path: Path) -> None:
    content = {"suites": {"a\ud800": {"notes": ["b\ud801"]}}, "manifest": {"created": "c\ud802"}}
    page = write_evaluation_report(tmp_path, content, []).read_text(encoding="utf-8")
    for shown in (r"a\ud800", r"b\ud801", r"c\ud802"):
        assert shown in page


def test_making_it_again_gives_the_same_page(evaluation: Evaluation, page: str) -> None:
    assert render(*copy.deepcopy(evaluation)) == page
