"""next.py: the training card of the next iteration, each change moved by questions that failed.

    what the trained arm got wrong                     and the run says        change
    facts missed in what was trained on                the loss still falls    twice the passes
                                                       it stands still         twice the rank, more
                                                                               layers
                                                       it diverged             a third of the rate
    worse than the base where the base was right       -                       half of the rate
    nothing of it on a tenth of the questions          -                       no change

A card is a program like any other: it is loaded and validated before it is offered. What a card
cannot change (knowledge that no row holds) is said in words.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coderllm_jax.comparison.findings import Findings
from coderllm_jax.comparison.questions import SEEN, UNSEEN
from coderllm_jax.comparison.scoring import Scored
from coderllm_jax.comparison.verdicts import find
from coderllm_jax.config.training import LORA_TARGETS, TrainingConfig

CARD = "next.py"
_LEAST_PART = 0.1  # of the questions: what fewer of them show is left alone
_MOST_RANK = 64
_MORE_TARGETS = ("query", "value", "attention_output", "ffw_gating", "ffw_linear")
_SHOWN = 3
_WIDTH = 92


class Change(NamedTuple):
    """One option's new value, why, and the questions that say so."""

    option: str
    before: Any
    after: Any
    words: str
    items: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """CHANGE in `comparison.results`."""
        return self._asdict()


class NextIteration(NamedTuple):
    """The changes, and a sentence about all of them or about why there are none."""

    changes: tuple[Change, ...]
    words: str

    def to_json(self) -> dict[str, Any]:
        """What comparison.json holds under `next_iteration`."""
        return {
            "card": CARD if self.changes else "",
            "changes": [change.to_json() for change in self.changes],
            "words": self.words,
        }


def propose(
    findings: Findings, trained_with: TrainingConfig | None, summary: Mapping[str, Any]
) -> NextIteration:
    """Changes to the run's own configuration; trained_with None where no run was compared."""
    if trained_with is None or "trained" not in findings.scored:
        return NextIteration((), "no trained arm was compared: there is nothing to train next")
    if findings.main_set != SEEN:
        return NextIteration((), "questions without references do not say what to train next")
    of_seen = [each for each in findings.scored["trained"] if each.question.set == SEEN]
    missed = [each for each in of_seen if each.facts is not None and each.facts["missed"]]
    forgotten = _forgotten(findings, of_seen)
    changes: list[Change] = []
    how = str(summary.get("converged", ""))
    if len(missed) >= _LEAST_PART * len(of_seen):
        changes += _learn_more(trained_with, missed, len(of_seen), how)
    if forgotten and _is_worse_than_base(findings) and how != "diverged":
        changes.append(
            Change(
                "learning_rate",
                trained_with.learning_rate,
                trained_with.learning_rate / 2,
                f"the base is right on {len(forgotten)} questions that the trained arm gets wrong, "
                "and better on the whole: training went too far, too fast",
                _ids(forgotten),
            )
        )
    words = _newer(findings)
    if not changes:
        return NextIteration(
            (),
            f"facts are missed on fewer than a tenth of the questions: no change. {words}".strip(),
        )
    return NextIteration(tuple(changes), words)


def _learn_more(
    config: TrainingConfig, missed: Sequence[Scored], num_asked: int, how: str
) -> list[Change]:
    why = f"{len(missed)} of {num_asked} questions about what was trained on lack facts"
    items = _ids(missed)
    if how == "diverged":
        return [
            Change(
                "learning_rate",
                config.learning_rate,
                config.learning_rate / 3,
                f"{why}, and the run diverged",
                items,
            )
        ]
    if how == "improving" or not config.lora.enabled:
        option = "steps" if config.steps else "epochs"
        before = config.steps or config.num_epochs
        return [
            Change(
                option,
                before,
                2 * before,
                f"{why}, and the evaluation loss was still falling when the run ended",
                items,
            )
        ]
    changes = []
    if config.lora.rank < _MOST_RANK:
        changes.append(
            Change(
                "lora.rank",
                config.lora.rank,
                min(_MOST_RANK, 2 * config.lora.rank),
                f"{why}, and the evaluation loss no longer falls: the adapter is full",
                items,
            )
        )
    targets = tuple(name for name in LORA_TARGETS if name in {*config.lora.targets, *_MORE_TARGETS})
    if targets != config.lora.targets:
        changes.append(
            Change(
                "lora.targets",
                list(config.lora.targets),
                list(targets),
                "facts are kept in the feed-forward layers, which had no adapter "
                "(Geva et al. 2021, Transformer Feed-Forward Layers Are Key-Value Memories)",
                items,
            )
        )
    return changes


def _forgotten(findings: Findings, of_seen: Sequence[Scored]) -> list[Scored]:
    """What the base is right about and the trained arm is not."""
    base = {each.question.id for each in findings.scored.get("base", ()) if each.checks["right"]}
    return [each for each in of_seen if each.question.id in base and not each.checks["right"]]


def _is_worse_than_base(findings: Findings) -> bool:
    found = find(findings.comparisons, "fact_f1", "trained", "base", set_name=SEEN)
    return found is not None and found[0] == "worse"


def _newer(findings: Findings) -> str:
    """What a card cannot mend: knowledge that no row holds."""
    for arm in ("trained_rag", "rag"):
        found = find(findings.comparisons, "fact_f1", arm, "trained", set_name=UNSEEN)
        if found is not None and found[0] == "better":
            return (
                f"On what is newer than the training, {arm} is better than trained: prepare rows "
                "about it before training again, or look it up."
            )
    return ""


def _ids(scored: Sequence[Scored]) -> tuple[str, ...]:
    return tuple(each.question.id for each in scored)


def render_card(
    trained_with: TrainingConfig, iteration: NextIteration, *, workdir: str, place: str
) -> str:
    """The card as a Python file: the run's own values, then the changes, each with its reason.

    workdir: where the next run is written; place: the card's own path, for the command.
    """
    defaults = TrainingConfig()
    changed = {change.option for change in iteration.changes} | {"workdir"}
    kept = [
        f"    config.{info.path} = {_literal(trained_with.get(info.path))}"
        for info in TrainingConfig.options()
        if info.path not in changed and trained_with.get(info.path) != defaults.get(info.path)
    ]
    lines = []
    for change in iteration.changes:
        lines += _comment(f"{change.words}; such as {', '.join(change.items[:_SHOWN])}")
        lines.append(f"    config.{change.option} = {_literal(change.after)}")
    own = ["    # As in the run that was compared.", *kept] if kept else []
    body = "\n".join([*own, *lines, f"    config.workdir = {_literal(workdir)}"])
    return (
        '"""The next iteration, made by a comparison from what the last one got wrong.\n\n'
        f"Run      python -m coderllm_jax.train --config={_one_line(place)}\n"
        f"Why      {len(iteration.changes)} change{'s' * (len(iteration.changes) != 1)}; each says "
        "which questions moved it\n"
        '"""\n\n'
        "import ml_collections\n\n"
        "from coderllm_jax.config import TrainingConfig\n\n\n"
        "def get_config() -> ml_collections.ConfigDict:\n"
        '    """The card\'s configuration."""\n'
        "    config = TrainingConfig.create_default()\n"
        f"{body}\n"
        "    return config\n"
    )


def write_card(path: Path, text: str, *, validate: Callable[[Path], object]) -> None:
    """Writes the card beside its place, has it loaded and validated, and only then moves it."""
    unfinished = path.with_name(f"unfinished_{path.name}")
    unfinished.write_text(text, encoding="utf-8")
    try:
        validate(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def configuration_of(values: Mapping[str, Any]) -> TrainingConfig:
    """The configuration in a run's config.json, also of a version that had other options."""
    known = {info.path for info in TrainingConfig.options()}
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        if path in known:
            section, _, key = path.rpartition(".")
            (tree.setdefault(section, {}) if section else tree)[key] = value
    return TrainingConfig.from_config_dict(tree)


def _comment(text: str) -> list[str]:
    wrapped = textwrap.wrap(_one_line(text), _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [f"    # {line}" for line in wrapped]


def _literal(value: Any) -> str:
    return repr(tuple(value) if isinstance(value, list) else value)


def _one_line(text: str) -> str:
    """Ids come from files: whatever they hold stays inside its comment."""
    kept = "".join(letter if letter.isprintable() else " " for letter in text)
    return kept.replace('"""', "'''").replace("\\", "/")
