"""What suites find, and how it is written: results.json and samples.jsonl.

    results.json
      {"status": "finished", "results_sha256": "…",
       "manifest": {"answerer": {...}, "items_sha256": "…", "versions": {...}, "devices": {...}},
       "suites": {"qa_accuracy": {"figures": {"seen/fact_f1": {"value": 0.41, "low": 0.33,
                                                              "high": 0.49, "num_items": 50}},
                                  "details": {...}, "notes": ["…"], "wall_s": 81.2}}}
    samples.jsonl      one object a sample: {"suite", "id", "question", "answer", "scores", ...}

`results_sha256` is over what does not depend on the clock: the figures and samples of suites that
measure no time. An evaluation that was killed and gone on with ends with the same one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coderllm_jax.records import Estimate
from coderllm_jax.training.run_folder import plain, write_json

# Their figures are times and loads.
CLOCKED_SUITES = frozenset({"performance"})


@dataclasses.dataclass(frozen=True)
class SuiteResult:
    """One suite's findings.

    figures: by name, such as "human_eval/pass@1" or "seen/fact_f1"; higher is better unless the
    suite's details say otherwise under "lower_is_better" (a list of names). details: whatever else
    is worth keeping, as JSON. samples: rows of samples.jsonl; each has "suite", "id" and what it
    was asked and answered, "scores" (name → number) for paired statistics, and for code "verdict".
    notes: sentences for a person. unstable: names of figures that depend on the clock or the load.
    is_whole: False where something was missing that may be there next time, such as the sandbox.
    """

    name: str
    figures: Mapping[str, Estimate]
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    unstable: frozenset[str] = frozenset()
    is_whole: bool = True
    wall_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """What results.json holds under the suite's name."""
        return {
            "figures": {name: figure._asdict() for name, figure in self.figures.items()},
            "details": dict(self.details),
            "notes": list(self.notes),
            "unstable": sorted(self.unstable),
            "is_whole": self.is_whole,
            "wall_s": self.wall_s,
        }


def from_json(name: str, values: Mapping[str, Any]) -> SuiteResult:
    """The result that `to_json` wrote, with its samples where they were kept beside it."""
    return SuiteResult(
        name,
        {key: Estimate(**figure) for key, figure in values["figures"].items()},
        details=values["details"],
        samples=values.get("samples", ()),
        notes=values["notes"],
        unstable=frozenset(values["unstable"]),
        is_whole=values["is_whole"],
        wall_s=values["wall_s"],
    )


def write_results(
    folder: Path, results: Sequence[SuiteResult], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes samples.jsonl, then results.json; returns what the latter holds."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / ".samples.jsonl.unfinished"
    with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for result in results:
            for sample in result.samples:
                file.write(json.dumps(plain(sample), ensure_ascii=False) + "\n")
    unfinished.replace(folder / "samples.jsonl")
    content = plain(
        {
            "status": "finished",
            "results_sha256": results_sha256(results),
            "manifest": dict(manifest),
            "suites": {result.name: result.to_json() for result in results},
        }
    )
    write_json(folder / "results.json", content)
    return content


def results_sha256(results: Sequence[SuiteResult]) -> str:
    """Digest of everything in the results that a second run must find again."""
    stable = [
        {
            "name": result.name,
            "figures": {
                name: list(figure)
                for name, figure in sorted(result.figures.items())
                if name not in result.unstable
            },
            "samples": [
                {key: value for key, value in sample.items() if key != "times"}
                for sample in result.samples
            ],
        }
        for result in results
        if result.name not in CLOCKED_SUITES
    ]
    text = json.dumps(stable, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
