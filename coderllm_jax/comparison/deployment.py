"""How to run each arm: what to ship, the command to try it with, and the hardware it takes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coderllm_jax.comparison.arms import Arm, base_model
from coderllm_jax.comparison.findings import Findings
from coderllm_jax.comparison.performance import TOGETHER
from coderllm_jax.comparison.verdicts import show
from coderllm_jax.config.comparison import ComparisonConfig
from coderllm_jax.records import Estimate

_WORDS = {
    "trained": "Train again when the knowledge changes; what it knows it knows by heart.",
    "rag": "Embed what changed and build the index again (retrieval.build=update); no training.",
    "base": "Nothing to keep up with, and nothing of your own in it.",
    "trained_rag": "Both: the adapter for what stays, the index for what changes.",
    "endpoint": "Somebody else's machine: keys, limits and prices are theirs.",
}


def deployments(
    findings: Findings, config: ComparisonConfig, devices: Mapping[str, Any]
) -> list[dict[str, str]]:
    """One an arm; see DEPLOYMENT in `comparison.results`."""
    return [
        {
            "arm": arm.name,
            "artifact": _artifact(arm, config),
            "command": _command(arm, config),
            "hardware": _hardware(arm, findings, devices),
            "words": _WORDS[arm.name],
        }
        for arm in findings.arms
    ]


def _artifact(arm: Arm, config: ComparisonConfig) -> str:
    parts = []
    if arm.weights == "trained":
        adapter = Path(config.run) / "adapter"
        parts.append(f"{adapter if adapter.is_dir() else config.run}, on {arm.model}")
    elif arm.weights == "base":
        parts.append(base_model(config))
    else:
        parts.append(f"{arm.model} at {config.endpoint.url}")
    if arm.looks_up:
        parts.append(f"the index in {config.retrieval.index_dir}")
    return ", and ".join(parts)


def _command(arm: Arm, config: ComparisonConfig) -> str:
    """What answers questions in that way; of somebody else's server, what tests it."""
    if arm.name == "endpoint":
        return "python -m coderllm_jax.evaluate " + shlex.quote(
            f"--config.endpoint.url={config.endpoint.url}"
        )
    words = [f"--config.arms={arm.name.replace('_', '-')}"]
    if arm.weights == "trained":
        words.append(f"--config.run={config.run}")
    else:
        words.append(f"--config.base_model={base_model(config)}")
    if arm.looks_up:
        words.append(f"--config.retrieval.index_dir={config.retrieval.index_dir}")
    return f"python -m coderllm_jax.serve {' '.join(map(shlex.quote, words))}"


def _hardware(arm: Arm, findings: Findings, devices: Mapping[str, Any]) -> str:
    if arm.name == "endpoint":
        return "whatever the server has"
    parts = [f"{sum(arm.memory.values()) / 1e9:.2f} GB beside Python and its libraries"]
    for path, words in (
        (f"performance/{TOGETHER}/total_s/p95", "95 of 100 answers within {} under load"),
        ("performance/tokens_per_s", "{}"),
    ):
        figure = findings.figure(path)
        estimate = figure.arms.get(arm.name, Estimate(None)) if figure is not None else None
        if figure is not None and estimate is not None and estimate.value is not None:
            parts.append(words.format(show(estimate.value, figure.unit)))
    kind = devices.get("kind", devices.get("platform", ""))
    where = f"{devices.get('cpu_cores')} cores" if devices.get("platform") == "cpu" else kind
    return f"{'; '.join(parts)} (on {where})"
