"""Waiting times are drawn as they are: every answer, and the quantiles of all of them."""

from __future__ import annotations

import re

import pytest

from coderllm_jax.reporting.comparison_latency import latency_part, quantile
from tests.reporting.outline import Outline


def a_chart(times: list[float], name: str = "total_s") -> str:
    return latency_part({"arms": [{"name": "rag"}], "latency": {"alone": {"rag": {name: times}}}})


def test_quantiles_by_hand() -> None:
    assert [quantile([1.0, 2.0, 4.0], share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == [
        1.0, 1.5, 2.0, 3.0, 4.0,
    ]  # fmt: skip
    assert quantile([7.0], 0.95) == 7.0


def test_a_box_by_hand() -> None:
    chart = a_chart([4.0, 2.0, 0.0, 1.0, 3.0])
    # The drawing's first 1.5 % stay free; 97 % are 4 seconds.
    (box,) = re.findall(r'class="box"[^>]* x="([\d.]+)%" width="([\d.]+)%"', chart)
    assert [float(each) for each in box] == pytest.approx([1.5 + 97 / 4, 97 / 2])
    (median,) = re.findall(r'class="median"[^>]* x1="([\d.]+)%"', chart)
    assert float(median) == 50.0
    (strokes,) = re.findall(r'<path style="[^"]*" d="([^"]+)"', chart)
    assert re.findall(r"M(\d+)", strokes) == ["15", "258", "500", "742", "985"]


def test_a_95th_percentile_is_told_of_enough_answers_only() -> None:
    assert "p95" not in Outline(a_chart([1.0] * 19)).text
    assert "at most 1.00 s" in Outline(a_chart([1.0] * 19)).text
    assert "p95 1.00 s" in Outline(a_chart([1.0] * 20)).text


def test_one_slow_answer_does_not_press_the_others_together() -> None:
    words = Outline(a_chart([1.0] * 99 + [60.0])).text
    assert "1 beyond, up to 60.0 s" in words
    (median,) = re.findall(r'class="median"[^>]* x1="([\d.]+)%"', a_chart([1.0] * 99 + [60.0]))
    assert float(median) > 80


def test_times_that_no_arm_has_are_left_out() -> None:
    assert a_chart([]) == ""
    assert a_chart([0.0, 0.0], "retrieval_s") == ""
    assert "Retrieval, apart" in Outline(a_chart([0.03], "retrieval_s")).text
    assert latency_part({"latency": {"alone": {"nobody": {"total_s": [1.0]}}}}) == ""
