"""Scores over versions: what evaluations wrote into results.json, each time that one changed.

    a/evaluation/results.json   fact_f1 0.41 ──► 0.45        evaluated again: two versions of one id
    b/evaluation/results.json        fact_f1 0.50

    ScoresWatch(earlier)   poll() → something is new; state() → what the next process's `earlier` is

A file that is written anew with the same scores is no new version. A version's time is when its
file was written, as results carry none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from coderllm_jax.monitoring.discovery import Found
from coderllm_jax.monitoring.json_files import JsonFile, dig, number
from coderllm_jax.monitoring.views import QualityView, ScoreView, VersionView

_MAX_SCORES = 200
# All of them travel to each page that is opened; the newest of each evaluation always stays.
_MAX_EARLIER = 100


class ScoresWatch:
    """Evaluations that were found, read again when their files change."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        """`state` is what `state()` gave in an earlier process."""
        self._files: dict[str, tuple[Found, JsonFile]] = {}
        # In the order in which they were seen.
        self._versions = [_recall(values) for values in (state or {}).get("versions", ())]

    def watch(self, found: Sequence[Found]) -> None:
        """These, and no others from here on."""
        known = self._files
        self._files = {
            each.id: known.get(each.id, (each, JsonFile(each.path / "results.json")))
            for each in found
        }

    def poll(self) -> bool:
        """Reads what has changed; whether there is a version that was not there."""
        changed = [pair for pair in self._files.values() if pair[1].refresh()]
        return sum(self._add(_version(found, file)) for found, file in changed) > 0

    def view(self) -> QualityView:
        """Oldest first."""
        versions = [version for version in self._versions if version.id in self._files]
        versions.sort(key=lambda version: version.time)
        names = dict.fromkeys(score.name for version in versions for score in version.scores)
        return QualityView(versions, list(names))

    def state(self) -> dict[str, Any]:
        """Plain values that `ScoresWatch` takes back."""
        return {"versions": [dataclasses.asdict(version) for version in self._versions]}

    def _add(self, version: VersionView) -> bool:
        newest = {each.id: each for each in self._versions}
        last = newest.get(version.id)
        if last is not None and (last.scores, last.model) == (version.scores, version.model):
            return False
        if last is not None and not last.scores:
            self._versions.remove(last)
        earlier = [each for each in self._versions if newest[each.id] is not each]
        for each in earlier[: max(0, len(earlier) - _MAX_EARLIER + 1)]:
            self._versions.remove(each)
        self._versions.append(version)
        return True


def _recall(values: Mapping[str, Any]) -> VersionView:
    return VersionView(**{**values, "scores": [ScoreView(**score) for score in values["scores"]]})


def _version(found: Found, file: JsonFile) -> VersionView:
    values = file.values
    scores: list[ScoreView] = []
    suites = dig(values, "suites")
    for suite, result in (suites if isinstance(suites, dict) else {}).items():
        lower = dig(result, "details", "lower_is_better")
        figures = dig(result, "figures")
        for name, figure in (figures if isinstance(figures, dict) else {}).items():
            value = number(dig(figure, "value"))
            if value is not None and len(scores) < _MAX_SCORES:
                count = number(dig(figure, "num_items"))
                scores.append(
                    ScoreView(
                        f"{suite}/{name}",
                        value,
                        number(dig(figure, "low")),
                        number(dig(figure, "high")),
                        None if count is None else int(count),
                        lower_is_better=isinstance(lower, list) and name in lower,
                    )
                )
    try:
        time = file.path.stat().st_mtime
    except OSError:
        time = 0.0
    model = str(dig(values, "manifest", "answerer", "name") or "")
    return VersionView(found.id, found.name, str(file.path), time, model, scores)
