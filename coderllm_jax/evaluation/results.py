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
from typing import Any

from coderllm_jax.records import Estimate

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
    """

    name: str
    figures: Mapping[str, Estimate]
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    unstable: frozenset[str] = frozenset()
    wall_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """What results.json holds under the suite's name."""
        return {
            "figures": {name: figure._asdict() for name, figure in self.figures.items()},
            "details": dict(self.details),
            "notes": list(self.notes),
            "unstable": sorted(self.unstable),
            "wall_s": self.wall_s,
        }


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
