"""Scores over versions: what evaluations wrote into results.json, whenever one changes."""

from __future__ import annotations

from collections.abc import Sequence

from coderllm_jax.monitoring.discovery import Found
from coderllm_jax.monitoring.json_files import JsonFile, dig, number
from coderllm_jax.monitoring.views import QualityView, ScoreView, VersionView

_MAX_SCORES = 200


class ScoresWatch:
    """Evaluations that were found, read again when their files change."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[Found, JsonFile]] = {}
        self._versions: dict[str, VersionView] = {}

    def watch(self, found: Sequence[Found]) -> None:
        """These, and no others from here on."""
        known = self._files
        self._files = {
            each.id: known.get(each.id, (each, JsonFile(each.path / "results.json")))
            for each in found
        }
        self._versions = {k: v for k, v in self._versions.items() if k in self._files}

    def poll(self) -> None:
        """Reads what has changed."""
        for key, (found, file) in self._files.items():
            if file.refresh():
                self._versions[key] = _version(found, file)

    def view(self) -> QualityView:
        """Oldest first."""
        versions = sorted(self._versions.values(), key=lambda version: version.time)
        names = dict.fromkeys(score.name for version in versions for score in version.scores)
        return QualityView(versions, list(names))


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
