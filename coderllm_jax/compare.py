"""`python -m coderllm_jax.compare`: arms in, figures with intervals, verdicts and a page out.

    configuration ──► arms, questions ──► asked in turns ──► comparison.json, answers.jsonl,
                      (comparison)                           next.py, report/, metrics/ (CLU)

Everything that was answered is kept as it comes, so a comparison that ends early goes on with the
same command, and a second one costs seconds. Heavy imports wait until there is something to
compare, so that --help answers at once.

Exit codes: 0 done, 1 a mistake that a retry would meet again, 42 interrupted by a signal: the same
command goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coderllm_jax import entry
from coderllm_jax.config.comparison import ComparisonConfig
from coderllm_jax.errors import ConfigError

if TYPE_CHECKING:
    from coderllm_jax.comparison.comparing import Asked, Study
    from coderllm_jax.comparison.findings import Findings
    from coderllm_jax.comparison.inputs import Inputs
    from coderllm_jax.comparison.judging import Ask
    from coderllm_jax.comparison.next_card import NextIteration

_KEPT = ("answers.jsonl", "rounds.jsonl", "examples.jsonl", "opinions.jsonl", "verdicts.jsonl")


@dataclasses.dataclass(frozen=True)
class ComparisonResult:
    """A comparison as it stands: its folder and what comparison.json holds."""

    folder: Path
    results: dict[str, Any]

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """Every figure by its path: {"accuracy/seen/fact_f1": {"arms": {"rag": {...}}, ...}}."""
        return {
            "/".join(part for part in (dimension["name"], figure["set"], figure["name"]) if part): (
                figure
            )
            for dimension in self.results["dimensions"]
            for figure in dimension["figures"]
        }

    @property
    def recommendations(self) -> list[dict[str, Any]]:
        """Which arm for which use, with its evidence."""
        return list(self.results["recommendations"])

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report" / "index.html"

    def __repr__(self) -> str:
        scores = self.figures.get("accuracy/seen/fact_f1", {"arms": {}})["arms"]
        shown = ", ".join(
            f"{arm} {estimate['value']:.3f}"
            for arm, estimate in scores.items()
            if estimate["value"] is not None
        )
        return f"ComparisonResult({shown or 'unscored'}, report={str(self.report)!r})"


def main(config: ComparisonConfig) -> int:
    """Compares, prints the table, and returns the exit code."""
    from coderllm_jax.reporting.comparison_text import describe_comparison

    result = run_comparison(config)
    print(describe_comparison(result.folder, result.results))
    return 0


def run_comparison(config: ComparisonConfig | Mapping[str, Any]) -> ComparisonResult:
    """Compares the arms that `config` names and writes what it finds.

    Raises a UserError that names the remedy where configuration, model, data or folder cannot be
    used, and ResumableError where a signal ended it.
    """
    if not isinstance(config, ComparisonConfig):
        config = ComparisonConfig.from_config_dict(config)
    from coderllm_jax.training.devices import check_platform, prepare_process

    prepare_process(platform=config.generation.platform, cache_dir=config.model.cache_dir)
    _check_sources(config)
    check_platform(config.generation.platform)
    with entry.ends_on_signals():
        return _compare(config)


def _check_sources(config: ComparisonConfig) -> None:
    """The folders and models that the options name, before any device is touched."""
    from coderllm_jax.comparison.arms import base_model
    from coderllm_jax.generation.trained import find_place
    from coderllm_jax.model.load import check_source

    if config.needs_run and find_place(config.run).folder is None:
        raise ConfigError(
            f"run is {config.run!r}, which is a model by name and no run; name a run's folder, or "
            "leave trained and trained_rag out of arms"
        )
    if config.needs_base:
        check_source(base_model(config))


def _compare(config: ComparisonConfig) -> ComparisonResult:
    from coderllm_jax.comparison.arms import Arms
    from coderllm_jax.comparison.comparing import Study, ask_everybody
    from coderllm_jax.comparison.inputs import read_inputs
    from coderllm_jax.comparison.rounds import Book
    from coderllm_jax.training.run_folder import RunFolder

    folder = Path(config.workdir).expanduser()
    started_s = time.monotonic()
    with RunFolder(folder).locked():
        note = entry.Notes()
        if not config.reuse:
            forget(folder)
        inputs = read_inputs(config)
        note("loading models and index")
        arms = Arms(config, chunks=inputs.chunks, examples=inputs.examples, shots=inputs.shots)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(arms))
            study = Study(config, arms, inputs.chosen, Book(folder), folder, note)
            asked = ask_everybody(study)
            judge = stack.enter_context(_opened_judge(config, folder))
            content = _conclude(study, asked, inputs, judge=judge, started_s=started_s)
    return ComparisonResult(folder, content)


def _conclude(
    study: Study,
    asked: Asked,
    inputs: Inputs,
    *,
    judge: Ask | None,
    started_s: float,
) -> dict[str, Any]:
    """From answers to files; comparison.json last."""
    from coderllm_jax.comparison.deployment import deployments
    from coderllm_jax.comparison.findings import find_out
    from coderllm_jax.comparison.recommendations import recommend
    from coderllm_jax.comparison.results import assemble, write_results
    from coderllm_jax.reporting.comparison_report import write_comparison_report
    from coderllm_jax.training.devices import describe_devices

    config, folder = study.config, study.folder
    devices = describe_devices()
    findings = find_out(
        study,
        asked,
        symbol_of=inputs.symbol_of,
        fixed=inputs.fixed,
        platform=devices["platform"],
        ask_judge=judge,
    )
    iteration = _propose_next(config, findings, folder)
    content = assemble(
        findings,
        ways={"alone": asked.alone, "together": asked.pooled},
        advice={
            "recommendations": [r.to_json() for r in recommend(findings, config.use_cases)],
            "deployment": deployments(findings, config, devices),
            "next_iteration": iteration.to_json(),
        },
        manifest=_manifest(study, devices, time.monotonic() - started_s),
    )
    write_comparison_report(folder, content)
    if config.clu:
        _write_summaries(folder, content)
    write_results(folder, content)
    return content


@contextlib.contextmanager
def _opened_judge(config: ComparisonConfig, folder: Path) -> Iterator[Ask | None]:
    """Asks the judge, through a file of its opinions; None where there is no judge."""
    if not config.judge.url:
        yield None
        return
    from coderllm_jax.config.generation import EndpointSection
    from coderllm_jax.evaluation.asking import AnswerProgress, Asker
    from coderllm_jax.generation.opening import open_endpoint

    section = config.judge
    endpoint = EndpointSection(
        url=section.url, model=section.model, api_key_variable=section.api_key_variable
    )
    with contextlib.closing(open_endpoint(endpoint)) as judge:
        yield Asker(judge, folder / "opinions.jsonl", progress=AnswerProgress("opinions"))


def _propose_next(config: ComparisonConfig, findings: Findings, folder: Path) -> NextIteration:
    """The next training card: written where something is to be changed, removed where not."""
    from coderllm_jax.comparison.next_card import (
        CARD,
        configuration_of,
        propose,
        render_card,
        write_card,
    )
    from coderllm_jax.config.training import TrainingConfig
    from coderllm_jax.generation.trained import find_place
    from coderllm_jax.training.run_folder import RunFolder, read_json

    run = find_place(config.run).run if config.needs_run else None
    trained_with, summary = None, {}
    if run is not None:
        trained_with = configuration_of(read_json(RunFolder(run).config))
        if RunFolder(run).summary.is_file():
            summary = read_json(RunFolder(run).summary)
    iteration = propose(findings, trained_with, summary)
    card = folder / CARD
    if trained_with is None or not iteration.changes:
        card.unlink(missing_ok=True)
        return iteration
    text = render_card(
        trained_with,
        iteration,
        workdir=f"{trained_with.workdir.rstrip('/')}_next",
        place=str(card),
    )

    def validate(path: Path) -> None:
        TrainingConfig.from_config_dict(entry.load_card(str(path)))

    write_card(card, text, validate=validate)
    return iteration


def _write_summaries(folder: Path, content: Mapping[str, Any]) -> None:
    """Every figure of every arm as a CLU scalar: rag/accuracy/seen/fact_f1."""
    from coderllm_jax.monitoring.writers import write_clu_scalars

    figures = ComparisonResult(folder, dict(content)).figures
    write_clu_scalars(
        folder / "metrics",
        {
            f"{arm}/{path}": estimate["value"]
            for path, figure in figures.items()
            for arm, estimate in figure["arms"].items()
            if estimate["value"] is not None
        },
    )


def forget(folder: Path) -> None:
    """Removes what was kept of earlier comparisons in this folder."""
    for name in _KEPT:
        (folder / name).unlink(missing_ok=True)


def _manifest(study: Study, devices: Mapping[str, Any], wall_s: float) -> dict[str, Any]:
    from coderllm_jax.training.inputs import items_sha256
    from coderllm_jax.training.manifest import git_commit, versions

    items = [question.item for question in study.chosen.questions if question.item is not None]
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config": study.config.to_dict(),
        "items": {"count": len(items), "sha256": items_sha256(items)},
        "identities": study.arms.identities,
        "indexes": study.arms.indexes,
        "versions": versions(),
        "commit": git_commit(),
        "devices": dict(devices),
        "num_asked": study.book.num_asked,
        "wall_s": wall_s,
    }


if __name__ == "__main__":
    entry.run(main, ComparisonConfig, "configs/comparison.py", computes=True)
