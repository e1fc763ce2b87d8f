"""What the monitor shows and costs: `python -m benchmarks.monitoring [--json=F] [--report=F]`.

    follow   `tiny` is trained and watched from start to finish in a real Chromium: points drawn at
             several moments against points written, without a reload; at half time the time left,
             against what it then took; in between the monitor is stopped and started again
    cost     beside a training of `tiny`, in turns: the monitor stopped where it is (SIGSTOP); its
             stream read, as by a page on another machine; its page drawn by a browser on the
             training's own cores. The median step of a turn, over the same round's without it
    size     5 runs of 100,000 rows that go on by a row a second each, a page open on them: time to
             read them, memory, processor time, and how soon a page shows its first chart

Everything is a process of its own: the command, the training, the browser. Prints tables and exits
with 1 where a goal is missed. All of it takes about eleven minutes.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.browser import CHROMIUM, WHY_NOT, Browser
from benchmarks.monitored import Monitor, Training, row_of, wait_until, write_long_run

PARTS = ("follow", "cost", "size")
_MIB = 2**20
# What issues ask for, as (part, figure): the most that it may be.
GOALS = {
    ("follow", "eta_error"): 0.20,
    ("follow", "num_missing"): 0,
    ("cost", "processor_share"): 0.01,
    ("size", "memory_bytes"): 250 * _MIB,
    ("size", "processor_share"): 0.05,
    ("size", "open_s"): 2.0,
}
# Notes in the page when the first chart is drawn; runs before any script of the page.
_TIMER = """
new MutationObserver(() => {
  if (!window.firstChart && document.querySelector(".chart[data-drawn] canvas")) {
    window.firstChart = performance.now();
  }
}).observe(document, {subtree: true, childList: true, attributes: true});
"""
_POINTS = "Number(document.querySelector('.chart.is-large')?.dataset.points || 0)"


def measure_follow(folder: Path, *, steps: int) -> dict[str, Any]:
    """A training from its first to its last step, as a browser saw it."""
    runs, state = folder / "runs", folder / "state"
    runs.mkdir()
    moments: list[dict[str, float]] = []
    eta: dict[str, float] = {}
    monitor = Monitor(runs, state)
    started_s = time.monotonic()
    try:
        with Browser(folder) as browser, Training(runs / "tiny", steps=steps) as training:
            wait_until(lambda: bool(monitor.overview()["runs"]), timeout_s=300)
            run_id = monitor.overview()["runs"][0]["id"]
            browser.open(f"{monitor.url}#/run/{run_id}")
            browser.run("window.isTheSamePage = true")
            was_restarted = False
            while training.is_running():
                time.sleep(2)
                rows = training.steps_done()
                moments.append(
                    {
                        "at_s": time.monotonic() - started_s,
                        "written": training.num_points(),
                        "drawn": browser.run(_POINTS),
                    }
                )
                if rows and rows[-1].step >= steps // 4 and not was_restarted:
                    monitor.__exit__()
                    monitor = Monitor(runs, state, port=monitor.port)
                    was_restarted = True
                if rows and rows[-1].step >= steps // 2 and not eta:
                    view = monitor.overview()["runs"][0]
                    if view["eta_s"]:
                        eta = {**view["eta_s"], "at": time.time(), "step": view["step"]}
            ended, written = training.steps_done()[-1].time, training.num_points()
            wait_until(lambda: browser.run(_POINTS) >= written, timeout_s=60)
            status = monitor.overview()["runs"][0]["status"]
            drawn, is_same = browser.run(_POINTS), browser.run("window.isTheSamePage === true")
            browser.take_picture(folder / "run.png", is_whole=True)
    finally:
        monitor.__exit__()
    took_s = ended - eta["at"]
    return {
        "steps": steps,
        "moments": moments,
        "drawn": drawn,
        "num_missing": abs(written - drawn),
        "is_same_page": is_same,
        "status": status,
        "eta_step": eta["step"],
        "eta_s": [eta["low"], eta["expected"], eta["high"]],
        "took_s": took_s,
        "eta_error": abs(eta["expected"] - took_s) / took_s,
    }


def measure_cost(folder: Path, *, rounds: int, turn_s: float, seed: int) -> dict[str, Any]:
    """What a training loses to the monitor beside it, and to a page drawn on its own cores."""
    runs = folder / "runs"
    runs.mkdir()
    turns: list[dict[str, dict[str, float]]] = []
    # An evaluation or a checkpoint within a turn would be more than what is looked for.
    rarely = [f"--config.{part}.every_steps=1000000" for part in ("evaluation", "checkpoint")]
    with (
        Monitor(runs, folder / "state") as monitor,
        Browser(folder) as browser,
        Training(runs / "tiny", *rarely, steps=1_000_000) as training,
    ):
        wait_until(lambda: len(training.steps_done()) > 50, timeout_s=600, every_s=1)

        def turn() -> dict[str, float]:
            time.sleep(1)  # what was due at the change is not the turn's
            began, processor_s = time.time(), monitor.processor_s()
            time.sleep(turn_s)
            ended, used_s = time.time(), monitor.processor_s() - processor_s
            inside = [row.seconds for row in training.steps_done() if began <= row.time < ended]
            return {"step_s": statistics.median(inside), "monitor_s": used_s}

        def off() -> dict[str, float]:
            monitor.pause()
            try:
                return turn()
            finally:
                monitor.resume()

        def read() -> dict[str, float]:
            with monitor.followed():
                return turn()

        def drawn() -> dict[str, float]:
            browser.open(monitor.url)
            try:
                return turn()
            finally:
                browser.open("about:blank")

        ways = {"off": off, "read": read, "drawn": drawn}
        for number in range(rounds):
            order = [*ways][number % 3 :] + [*ways][: number % 3]  # each comes first in its turn
            turns.append({way: ways[way]() for way in order})

    def ratio(way: str) -> list[float]:
        return interval([t[way]["step_s"] / t["off"]["step_s"] for t in turns], seed=seed)

    used_s = sum(each["read"]["monitor_s"] for each in turns)
    return {
        "rounds": rounds,
        "turn_s": turn_s,
        "step_s": statistics.median(each["off"]["step_s"] for each in turns),
        "read_ratio": ratio("read"),
        "drawn_ratio": ratio("drawn"),
        "processor_share": used_s / (turn_s * rounds * (os.cpu_count() or 1)),
    }


def measure_size(folder: Path, *, rows: int, watch_s: float) -> dict[str, Any]:
    """The monitor over long runs that go on, with a page open."""
    runs = folder / "runs"
    paths = [runs / f"long-{i}" for i in range(5)]
    for i, path in enumerate(paths):
        write_long_run(path, rows, seed=i)
    with Monitor(runs, folder / "state") as monitor, Browser(folder) as browser:

        def num_read() -> int:
            return sum(run["num_points"] for run in monitor.overview()["runs"])

        read_s = wait_until(lambda: num_read() >= len(paths) * rows, timeout_s=600)
        read_processor_s = monitor.processor_s()
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=_TIMER)
        opened = []
        for view in ("#/", f"#/run/{monitor.overview()['runs'][0]['id']}", "#/compare"):
            for _ in range(3):
                browser.open("about:blank")
                browser.open(monitor.url + view)
                browser.wait_for("window.firstChart")
                opened.append((view, browser.run("window.firstChart") / 1000))
        browser.open(monitor.url)
        before, started_s = monitor.processor_s(), time.monotonic()
        step = rows
        while time.monotonic() - started_s < watch_s:
            step += 1
            for path in paths:
                with (path / "metrics" / "metrics.jsonl").open("a") as file:
                    file.write(row_of(step, time.time(), 0.1, rows))
            time.sleep(1)
        share = (monitor.processor_s() - before) / (time.monotonic() - started_s)
        browser.take_picture(folder / "overview.png")
        return {
            "runs": len(paths),
            "rows": rows,
            "read_s": read_s,
            "read_processor_s": read_processor_s,
            "memory_bytes": monitor.memory_bytes(),
            "memory_peak_bytes": monitor.memory_peak_bytes(),
            "processor_share": share,
            "watch_s": watch_s,
            "open_s": statistics.median(seconds for _, seconds in opened),
            "opened": opened,
        }


def interval(ratios: Sequence[float], *, seed: int) -> list[float]:
    """Low, median, high: the median over pairs with its 95 % interval by bootstrap."""
    values = np.asarray(ratios)
    draws = np.random.default_rng(seed).integers(0, len(values), (4000, len(values)))
    low, high = np.percentile(np.median(values[draws], axis=1), [2.5, 97.5])
    return [float(low), float(np.median(values)), float(high)]


def follow_table(found: Mapping[str, Any]) -> str:
    """Points at several moments, then the time left at half time."""
    moments = [each for each in found["moments"] if each["written"]]
    shown = moments[:: max(1, len(moments) // 8)]
    low, expected, high = found["eta_s"]
    return "\n".join(
        [
            "follow: one run of tiny in a browser",
            "",
            f"{'seconds':>8}  {'points written':>14}  {'points drawn':>12}",
            *(f"{m['at_s']:8.0f}  {m['written']:14.0f}  {m['drawn']:12.0f}" for m in shown),
            "",
            f"{found['drawn']} points at the end, {found['num_missing']} missing, status "
            f"{found['status']}; the monitor was started again in between and the page was "
            f"{'never' if found['is_same_page'] else 'BY MISTAKE'} loaded again",
            f"time left at step {found['eta_step']} of {found['steps']}: {expected:.1f} s "
            f"({low:.1f} to {high:.1f}); it took {found['took_s']:.1f} s: "
            f"{found['eta_error']:.0%} off",
        ]
    )


def cost_table(found: Mapping[str, Any]) -> str:
    """The training with the monitor over the training without it."""

    def row(name: str, ratio: Sequence[float]) -> str:
        low, middle, high = ((value - 1) * 100 for value in ratio)
        return f"{name:<44}{middle:+7.2f} %   ({low:+.2f} to {high:+.2f})"

    return "\n".join(
        [
            f"cost: {found['rounds']} rounds of turns of {found['turn_s']:g} s, "
            f"a step takes {found['step_s'] * 1000:.0f} ms without the monitor",
            "",
            row("a step, the page open on another machine", found["read_ratio"]),
            row("a step, the page drawn on the same cores", found["drawn_ratio"]),
            f"{'the monitor, of all cores':<44}{found['processor_share']:7.2%}",
        ]
    )


def size_table(found: Mapping[str, Any]) -> str:
    """Time, memory and processor time over long runs."""
    views: dict[str, list[float]] = {}
    for view, seconds in found["opened"]:
        views.setdefault(view.split("/")[1] or "overview", []).append(seconds)
    return "\n".join(
        [
            f"size: {found['runs']} runs of {found['rows']:,} rows, growing by a row a second each",
            "",
            f"{'reading them':<34}{found['read_s']:7.1f} s   "
            f"({found['read_processor_s']:.1f} processor seconds)",
            f"{'memory':<34}{found['memory_bytes'] / _MIB:7.0f} MiB "
            f"(at most {found['memory_peak_bytes'] / _MIB:.0f})",
            f"{'of one core, over ' + format(found['watch_s'], 'g') + ' s':<34}"
            f"{found['processor_share']:7.2%}",
            *(
                f"{'first chart drawn, ' + view:<34}{statistics.median(times):7.2f} s   "
                f"(at most {max(times):.2f})"
                for view, times in views.items()
            ),
        ]
    )


def missed_goals(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What was measured and is more than it may be."""
    return [
        f"missed: {part}, {name} is {found[part][name]:.4g}; at most {most:g}"
        for (part, name), most in GOALS.items()
        if part in found and found[part][name] > most
    ]


def page(text: str, conditions: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    return (
        "# The monitor: what it shows and costs\n\n"
        f"`python -m benchmarks.monitoring`, {conditions['date']}, {conditions['cores']} cores, "
        f"{conditions['machine']}, Python {conditions['python']}, {versions}; load "
        f"{conditions['load_before'][0]:.1f} before; {conditions['wall_s'] / 60:.0f} min.\n\n"
        f"```\n{text}\n```\n"
    )


def _conditions() -> dict[str, Any]:
    packages = ("starlette", "uvicorn", "psutil")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "load_before": os.getloadavg(),
    }


def define_flags() -> None:
    """The command's flags; tests import this module beside others that have some of these names."""
    flags.DEFINE_string("json", "", "Also write the figures to this file.")
    flags.DEFINE_string("report", "", "Also write the page to this file (Markdown).")
    flags.DEFINE_list("part", list(PARTS), "What is measured.")
    flags.DEFINE_integer("steps", 300, "Steps of the run that is followed.", lower_bound=40)
    flags.DEFINE_integer("rounds", 18, "Rounds of three turns of the part `cost`.", lower_bound=3)
    flags.DEFINE_float("turn_s", 6.0, "Seconds of a turn.", lower_bound=1)
    flags.DEFINE_integer("rows", 100_000, "Rows of a long run.", lower_bound=1000)
    flags.DEFINE_float("watch_s", 60.0, "How long long runs are watched.", lower_bound=5)
    flags.DEFINE_integer("seed", 0, "Of the intervals.")
    flags.DEFINE_string("folder", "", "Where runs and pictures go, to be kept; default: nowhere.")


def main(argv: list[str]) -> None:
    """Measures what is asked for, prints and writes it, exits with 1 where a goal is missed."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if unknown := [name for name in flags.FLAGS.part if name not in PARTS]:
        raise app.UsageError(f"--part names {unknown[0]!r}; expected {', '.join(PARTS)}")
    if CHROMIUM is None:
        raise SystemExit(f"error: {WHY_NOT}")
    started_s, conditions = time.monotonic(), _conditions()
    found: dict[str, dict[str, Any]] = {}
    texts = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        top = Path(flags.FLAGS.folder or temporary).absolute()
        for part in flags.FLAGS.part:
            folder = top / part
            folder.mkdir(parents=True)
            found[part], text = _measure(part, folder)
            texts.append(text)
            print(text, end="\n\n\n", flush=True)
    conditions["wall_s"] = time.monotonic() - started_s
    if flags.FLAGS.json:
        content = {"conditions": conditions, **found}
        Path(flags.FLAGS.json).write_text(json.dumps(content, indent=1) + "\n")
    if flags.FLAGS.report:
        Path(flags.FLAGS.report).write_text(page("\n\n\n".join(texts), conditions))
    if missed := missed_goals(found):
        raise SystemExit("\n".join(missed))


def _measure(part: str, folder: Path) -> tuple[dict[str, Any], str]:
    asked = flags.FLAGS
    if part == "follow":
        figures = measure_follow(folder, steps=asked.steps)
        return figures, follow_table(figures)
    if part == "cost":
        figures = measure_cost(folder, rounds=asked.rounds, turn_s=asked.turn_s, seed=asked.seed)
        return figures, cost_table(figures)
    figures = measure_size(folder, rows=asked.rows, watch_s=asked.watch_s)
    return figures, size_table(figures)


if __name__ == "__main__":
    define_flags()
    app.run(main)
