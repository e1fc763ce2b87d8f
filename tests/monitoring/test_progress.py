"""The progress line: what it says, and how much of it where nobody watches."""

from __future__ import annotations

import io

import pytest

from coderllm_jax.monitoring.progress import ProgressWriter, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def row(step: int, step_time_s: float = 2.0) -> dict:
    return {"step": step, "loss": 3.14159, "tokens_per_s": 4312.4, "step_time_s": step_time_s}


def evaluation(step: int, **more: float) -> dict:
    return {"step": step, "eval_loss": 2.5, "perplexity": 12.18, "token_accuracy": 0.44, **more}


def test_a_line_says_loss_rate_and_time_left() -> None:
    out = io.StringIO()
    progress = ProgressWriter(stream=out)
    progress.begin(num_steps=60, step=0)
    progress.write(row(30))
    assert out.getvalue() == (
        "step 30/60  50% │ loss 3.142 │ 4,312 tokens/s │ 2.00 s/step │ 1:00 left\n"
    )


def test_the_time_left_is_not_moved_by_one_slow_step() -> None:
    out = io.StringIO()
    progress = ProgressWriter(stream=out)
    progress.begin(num_steps=10, step=0)
    for step, seconds in ((1, 2.0), (2, 2.0), (3, 90.0)):
        progress.write(row(step, seconds))
    assert out.getvalue().splitlines()[-1].endswith("0:14 left")


def test_an_evaluation_has_its_own_line() -> None:
    out = io.StringIO()
    progress = ProgressWriter(stream=out)
    progress.begin(num_steps=60, step=0)
    progress.write(evaluation(0, few_shot_loss=3.0))
    progress.write(evaluation(20))
    first, second = out.getvalue().splitlines()
    assert (
        "loss 2.500, perplexity 12.2, token accuracy 0.440 (few-shot prompt: loss 3.000)" in first
    )
    assert "few-shot" not in second


def test_about_twenty_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    progress = ProgressWriter(stream=out)
    progress.begin(num_steps=1000, step=0)
    for step in range(1, 1001):
        progress.write(row(step))
    assert len(out.getvalue().splitlines()) in range(20, 23)


def test_rows_of_several_steps_are_shown_too() -> None:
    out = io.StringIO()
    progress = ProgressWriter(stream=out)
    progress.begin(num_steps=1000, step=0)
    for step in range(7, 1001, 7):
        progress.write(row(step))
    assert len(out.getvalue().splitlines()) in range(18, 23)


def test_a_terminal_has_one_line_and_evaluations_stay() -> None:
    out = Terminal()
    progress = ProgressWriter(stream=out)
    progress.begin(num_steps=60, step=0)
    progress.note("compiling")
    progress.write(row(1))
    progress.write(row(2))
    assert "\n" not in out.getvalue()
    progress.write(evaluation(2))
    assert out.getvalue().count("\n") == 1
    progress.close()


def test_a_shorter_line_covers_the_longer_one_before_it() -> None:
    out = Terminal()
    progress = ProgressWriter(stream=out)
    progress.begin(num_steps=60, step=0)
    progress.write(row(1))
    progress.note("x")
    last = out.getvalue().rsplit("\r", 1)[1]
    first = out.getvalue().rsplit("\r", 2)[1]
    assert len(last) == len(first)


def test_a_narrow_terminal_is_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = Terminal()
    progress = ProgressWriter(stream=out)
    progress.begin(num_steps=60, step=0)
    progress.write(row(1))
    assert len(out.getvalue().strip("\r")) < 40


def test_quiet_is_quiet() -> None:
    out = io.StringIO()
    progress = ProgressWriter(quiet=True, stream=out)
    progress.begin(num_steps=2, step=1)
    progress.note("x")
    progress.write(row(2))
    progress.close()
    assert out.getvalue() == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
