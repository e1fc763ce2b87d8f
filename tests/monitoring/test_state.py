"""The monitor's own folder, and scores of evaluations."""

from __future__ import annotations

import json
import os

import pytest

from coderllm_jax.errors import RunError
from coderllm_jax.monitoring.discovery import Found
from coderllm_jax.monitoring.scores import ScoresWatch
from coderllm_jax.monitoring.state import StateFolder
from tests.monitoring.watched import write_json


@pytest.fixture
def opened():
    folders = []

    def open_state(path):
        folders.append(StateFolder(path))
        return folders[-1]

    yield open_state
    for folder in folders:
        folder.close()


def test_what_is_written_is_read_and_private(tmp_path, opened):
    folder = opened(tmp_path / "state")
    folder.write("references/a.json", {"x": 1})
    assert folder.read("references/a.json") == {"x": 1}
    assert folder.read("nothing.json") == {}
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert folder.problems == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": '])
def test_a_damaged_file_is_set_aside_and_said(tmp_path, text, opened):
    folder = opened(tmp_path)
    (tmp_path / "state.json").write_text(text)
    assert folder.read("state.json") == {}
    assert (tmp_path / "state.json.damaged").read_text() == text
    (problem,) = folder.problems
    assert "was damaged and is set aside" in problem


def test_two_monitors_do_not_share_it(tmp_path):
    first = StateFolder(tmp_path)
    with pytest.raises(RunError, match="in use by another monitor"):
        StateFolder(tmp_path)
    first.close()
    StateFolder(tmp_path).close()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        StateFolder(tmp_path / "file" / "state")


def results(value, **more):
    figure = {"value": value, "low": value - 0.1, "high": value + 0.1, "num_items": 50, **more}
    return {
        "manifest": {"answerer": {"name": "tiny"}},
        "suites": {
            "qa_accuracy": {
                "figures": {"seen/fact_f1": figure, "nll": {"value": 2.0}, "bad": {"value": None}},
                "details": {"lower_is_better": ["nll"]},
            }
        },
    }


def test_scores_over_versions(tmp_path):
    scores = ScoresWatch()
    found = [Found("evaluation", tmp_path / name / "evaluation", name) for name in ("a", "b")]
    write_json(found[0].path / "results.json", results(0.4))
    scores.watch(found)
    scores.poll()
    view = scores.view()
    (version,) = view.versions
    assert (version.name, version.model) == ("a", "tiny")
    assert [(s.name, s.value, s.low, s.num_items, s.lower_is_better) for s in version.scores] == [
        ("qa_accuracy/seen/fact_f1", 0.4, pytest.approx(0.3), 50, False),
        ("qa_accuracy/nll", 2.0, None, None, True),
    ]
    write_json(found[1].path / "results.json", results(0.5))
    write_json(found[0].path / "results.json", results(0.45))
    scores.poll()
    values = {(v.name, v.scores[0].value) for v in scores.view().versions}
    assert values == {("a", 0.4), ("a", 0.45), ("b", 0.5)}
    scores.watch(found[1:])
    assert [v.name for v in scores.view().versions] == ["b"]


def test_what_is_evaluated_again_joins_what_was(tmp_path):
    found = [Found("evaluation", tmp_path, "a")]

    def write(content, at):
        write_json(tmp_path / "results.json", content)
        os.utime(tmp_path / "results.json", (at, at))

    scores = ScoresWatch()
    write({}, 5)
    for at, value in ((10, 0.4), (20, 0.5), (30, 0.5)):
        scores.watch(found)
        scores.poll()
        write(results(value), at)
    assert scores.poll() is False  # the same scores, written anew
    again = ScoresWatch(json.loads(json.dumps(scores.state())))
    write(results(0.3), 40)
    again.watch(found)
    assert again.poll() is True
    seen = [(version.time, version.scores[0].value) for version in again.view().versions]
    assert seen == [(10, 0.4), (20, 0.5), (40, 0.3)]


def test_earlier_scores_are_not_endless_and_the_newest_of_each_stays(tmp_path):
    found = [Found("evaluation", tmp_path / name, name) for name in "ab"]
    scores = ScoresWatch()
    scores.watch(found)
    write_json(found[1].path / "results.json", results(0.9))
    for i in range(150):
        write_json(found[0].path / "results.json", results(i))
        scores.poll()
    values = [version.scores[0].value for version in scores.view().versions]
    assert sorted(values) == [0.9, *range(49, 150)]  # a hundred earlier ones


def test_a_file_of_another_shape_has_no_scores(tmp_path):
    scores = ScoresWatch()
    for name, content in (("a", {"suites": []}), ("b", {"suites": {"x": 3}}), ("c", {})):
        write_json(tmp_path / name / "results.json", content)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "results.json").write_text(json.dumps([1]))
    scores.watch([Found("evaluation", tmp_path / name, name) for name in "abcd"])
    scores.poll()
    assert [version.scores for version in scores.view().versions] == [[], [], []]
