"""The terminal's one screen: every suite, aligned, with intervals, and what to do about it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from coderllm_jax.evaluation.results import SuiteResult
from coderllm_jax.records import Estimate
from coderllm_jax.reporting.evaluation_text import describe_results
from tests.reporting.evaluations import a_figure, an_evaluation, the_content

FOLDER = Path("runs/lora/evaluation")


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return an_evaluation(num_problems=48, num_items=48)[0]


def test_all_suites_fit_on_a_screen(content: dict) -> None:
    lines = describe_results(FOLDER, content).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 110


def test_says_figures_with_intervals_and_items_and_where_the_page_is(content: dict) -> None:
    said = describe_results(FOLDER, content)
    for suite, name in (
        ("code_generation", "human_eval/pass@1"),
        ("qa_accuracy", "seen/fact_f1"),
        ("qa_accuracy", "unseen/fact_f1"),
        ("robustness", "typos/fact_f1_drop"),
    ):
        figure = content["suites"][suite]["figures"][name]
        words = f"{figure['value']:.3f}  [{figure['low']:.3f}, {figure['high']:.3f}]"
        assert words in said
        assert f"{figure['num_items']}" in said.split(words)[1].split("\n")[0].split()[0]
    assert said.splitlines()[-1] == "page  runs/lora/evaluation/report/index.html"


def test_the_gate_is_said_last_with_the_figures_that_failed_it(content: dict) -> None:
    lines = describe_results(FOLDER, content).splitlines()
    details = content["suites"]["regression"]["details"]
    failed = details["regressions"]
    assert failed
    assert lines[-2 - len(failed)] == "regression gate: failed"
    for line, name in zip(lines[-1 - len(failed) : -1], failed, strict=True):
        (change,) = [each for each in details["changes"] if each["figure"] == name]
        assert f"{name}: {change['baseline']:.3f} → {change['current']:.3f} on" in line


def test_a_passed_gate_says_why(content: dict) -> None:
    passed = copy.deepcopy(content)
    passed["suites"]["regression"]["details"] |= {
        "gate": "passed",
        "regressions": [],
        "reason": "no drop is shown",
    }
    line = describe_results(FOLDER, passed).splitlines()[-2]
    assert line == "regression gate: passed · no drop is shown"


def test_seen_and_unseen_stand_side_by_side(content: dict) -> None:
    lines = describe_results(FOLDER, content).splitlines()
    (line,) = [line for line in lines if line.strip().startswith("fact F1 ")]
    figures = content["suites"]["qa_accuracy"]["figures"]
    seen, unseen = (f"{figures[f'{split}/fact_f1']['value']:.3f}" for split in ("seen", "unseen"))
    assert line.index(seen) < line.index(unseen)
    (head,) = [each for each in lines if each.split() == ["seen", "unseen"]]
    assert head.index("seen") + len("seen") == line.index(seen) + len(seen)


def test_columns_stand_under_one_another(content: dict) -> None:
    lines = describe_results(FOLDER, content).splitlines()
    start = lines.index("Code generation") + 1
    brackets = {line.index("[") for line in lines[start : start + 2]}
    assert len(brackets) == 1


def test_undefined_figures_are_a_dash(content: dict) -> None:
    undefined = copy.deepcopy(content)
    for suite in undefined["suites"].values():
        suite["figures"] = {name: a_figure(None) for name in suite["figures"]}
    said = describe_results(FOLDER, undefined)
    assert "None" not in said
    assert "fact F1" in said
    assert "\u2013" in said


def test_one_split_alone_is_shown(content: dict) -> None:
    alone = copy.deepcopy(content)
    figures = alone["suites"]["qa_accuracy"]["figures"]
    alone["suites"]["qa_accuracy"]["figures"] = {
        name: figure for name, figure in figures.items() if name.startswith("seen/")
    }
    lines = describe_results(FOLDER, alone).splitlines()
    assert "unseen" not in lines[lines.index("Questions and answers") + 1]


def test_a_judge_stands_below_the_splits(content: dict) -> None:
    judged = copy.deepcopy(content)
    judged["suites"]["qa_accuracy"]["figures"]["judge/agreement"] = a_figure(0.75, num_items=9)
    lines = describe_results(FOLDER, judged).splitlines()
    assert "  judge agrees with itself  0.750    9" in lines
    assert [line for line in lines if line.split() == ["seen", "unseen"]]


def test_more_than_a_screen_is_cut_and_said() -> None:
    many = SuiteResult(
        "taste",
        {f"spice_{i}": Estimate(0.5, 0.4, 0.6, 9) for i in range(50)},
        notes=[f"note {i} " + "and so on " * 30 for i in range(50)],
    )
    lines = describe_results(FOLDER, the_content([many])).splitlines()
    assert "  and 38 more figures on the page" in lines
    assert "  and 46 more notes on the page" in lines
    assert max(map(len, lines)) <= 110


def test_lines_of_others_cannot_take_over_the_screen() -> None:
    note = "first\nregression gate: passed\r\x1b[2Kall is well"
    said = describe_results(FOLDER, the_content([SuiteResult("taste", {}, notes=(note,))]))
    assert "regression gate: passed" not in said.splitlines()
    assert "\x1b" not in said
    assert "\r" not in said
