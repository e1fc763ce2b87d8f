"""Figures of results.json as people read them: which unit, how many digits, what to call them.

    "seen/fact_f1" {"value": 0.41…, "low": …}  ──►  Figure ──►  "fact F1"  "0.412"  "0.331 to 0.490"

Owns what the page and the terminal must say alike. Whatever a figure is named, it can be shown:
the unit follows from the name's end, and a name that nobody knows is shown as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from coderllm_jax.reporting.row_charts import Interval

NONE = "\u2013"
HUMAN_EVAL = "human_eval"
_WORDS = {
    "fact_f1": "fact F1",
    "fact_precision": "fact precision",
    "fact_recall": "fact recall",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "parses": "code that parses",
    "runs": "code that runs",
    "perplexity": "reference perplexity",
    "human_eval": "HumanEval",
    "hand_written": "hand-written tasks",
    "items": "executable items",
    "code_generation": "Code generation",
    "qa_accuracy": "Questions and answers",
    "performance": "Performance",
    "robustness": "Robustness",
    "regression": "Regression",
    "repetition/identical": "same when asked again",
    "order/identical": "same in another order",
    "batch/identical": "same when asked alone",
    "survival/passed": "survived what nobody should ask",
    "stress/ended_once": "ended once under stress",
    "at_least_as_good": "at least as good as the reference",
    "agreement": "agrees with itself",
    "memory_growth_bytes": "memory growth",
    "clean_fact_f1": "fact F1 before disturbing",
    "fact_f1_drop": "fact F1 lost",
    "time_to_first_token_s": "time to first token",
    "time_per_token_s": "time per token",
    "total_s": "end to end",
    "hand_in_delay_s": "hand-in delay",
}
_SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


class Figure(NamedTuple):
    """One figure as results.json holds it; value, low and high may each be None."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    num_items: int

    @property
    def group(self) -> str:
        """What it is about: `seen` of `seen/fact_f1`."""
        return self.name.rpartition("/")[0]

    @property
    def measure(self) -> str:
        """What was measured: `fact_f1` of `seen/fact_f1`."""
        return self.name.rpartition("/")[2]

    def in_words(self) -> str:
        """The value alone."""
        return show_as(self.name)(self.value) if self.value is not None else NONE

    def interval_in_words(self, *, between: str = " to ") -> str:
        """Its interval; "" where it has none."""
        if self.low is None or self.high is None:
            return ""
        show = show_as(self.name)
        return f"{show(self.low)}{between}{show(self.high)}"

    def as_interval(self, name: str, color: int = 0) -> Interval:
        """A row of a chart."""
        return Interval(name, self.value, self.low, self.high, self.num_items, color)


def read_figures(suite: Mapping[str, Any]) -> dict[str, Figure]:
    """A suite's figures by name, in their order; HumanEval before other sets of problems."""
    figures = [
        Figure(name, each.get("value"), each.get("low"), each.get("high"), each.get("num_items", 0))
        for name, each in suite.get("figures", {}).items()
    ]
    figures.sort(key=lambda figure: figure.group != HUMAN_EVAL)
    return {figure.name: figure for figure in figures}


def name_in_words(name: str) -> str:
    """A figure's or a suite's name, or a part of it, as people say it."""
    if name in _WORDS:
        return _WORDS[name]
    return " ".join(_WORDS.get(part, part.replace("_", " ")) for part in name.split("/"))


def load_in_words(load: str) -> str:
    """`closed/4` and `open/0.5` as people say it."""
    kind, _, offered = load.partition("/")
    if kind == "closed":
        return f"{offered} in flight"
    return f"{offered} arrivals/s" if kind == "open" else load


def show_as(name: str) -> Callable[[float], str]:
    """How values of a figure of this name are written."""
    parts = name.split("/")
    # Percentiles follow what they are of: total_s/p95.
    for part in reversed(parts):
        for ending, show in _ENDINGS:
            if part.endswith(ending):
                return show
    return show_number


def show_number(value: float) -> str:
    """Three decimals for shares and scores, fewer where numbers are large."""
    if abs(value) < 10:
        return f"{value:.3f}"
    return f"{value:,.1f}" if abs(value) < 1e3 else f"{value:,.0f}"


def show_seconds(value: float) -> str:
    """`850 µs`, `12.3 ms`, `0.45 s`, `12.3 s`."""
    size = abs(value)
    if not size:
        return "0 s"
    if size < 1e-3:
        return f"{value * 1e6:.0f} µs"
    if size < 0.1:
        return f"{value * 1e3:.1f} ms"
    return f"{value:.2f} s" if size < 10 else f"{value:,.1f} s"


def show_rate(value: float) -> str:
    """A number a second."""
    return f"{value:,.2f}/s" if abs(value) < 10 else f"{value:,.1f}/s"


def show_bytes(value: float) -> str:
    """`1.2 GiB`, `340 MiB`, `12 B`."""
    for size, unit in _SIZES:
        if abs(value) >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:.0f} B"


def show_perplexity(value: float) -> str:
    """Three or four digits; powers of ten where a model is lost."""
    if abs(value) >= 1e5:
        return f"{value:.1e}"
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"


def show_score(value: float) -> str:
    """A score from 0 to 100."""
    return f"{value:.1f}"


def show_growth(value: float) -> str:
    """A count with its sign."""
    return f"{value:+,.0f}"


def closed_loads(figures: Mapping[str, Figure]) -> list[str]:
    """The loads with a fixed number in flight, as they were measured: `closed/1`, `closed/16`."""
    return [name.rpartition("/")[0] for name in figures if _is_throughput(name)]


def busiest_load(figures: Mapping[str, Figure]) -> str:
    """The one of them with the largest throughput; "" where none is known."""
    known = [each for name, each in figures.items() if _is_throughput(name) and each.value]
    return max(known, key=lambda figure: figure.value or 0.0).group if known else ""


def _is_throughput(name: str) -> bool:
    return name.startswith("closed/") and name.endswith("/tokens_out_per_s")


def gate_of(content: Mapping[str, Any]) -> str:
    """What the regression gate says: passed, failed, not_comparable; "" where none was asked."""
    return content.get("suites", {}).get("regression", {}).get("details", {}).get("gate", "")


def all_notes(content: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """(suite, sentence) of everything that suites have to say."""
    return [
        (name, note)
        for name, suite in content.get("suites", {}).items()
        for note in suite.get("notes", ())
    ]


_ENDINGS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("_per_s", show_rate),
    ("_s", show_seconds),
    ("_bytes", show_bytes),
    ("_growth", show_growth),
    ("bleu", show_score),
    ("chrf", show_score),
    ("perplexity", show_perplexity),
)
