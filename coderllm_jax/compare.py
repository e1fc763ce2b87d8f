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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coderllm_jax import entry
from coderllm_jax.config.comparison import ComparisonConfig
from coderllm_jax.errors import ConfigError

if TYPE_CHECKING:
    from coderllm_jax.comparison.arms import Corpus
    from coderllm_jax.comparison.comparing import Asked, Study
    from coderllm_jax.comparison.findings import Findings
    from coderllm_jax.comparison.judging import Ask
    from coderllm_jax.comparison.next_card import NextIteration
    from coderllm_jax.comparison.questions import Chosen
    from coderllm_jax.records import Chunk, EvalItem, Example

_KEPT = ("answers.jsonl", "rounds.jsonl", "examples.jsonl", "opinions.jsonl", "verdicts.jsonl")
_TRAINED = "trained"


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
    from coderllm_jax.comparison.rounds import Book
    from coderllm_jax.training.run_folder import RunFolder

    folder = Path(config.workdir).expanduser()
    started_s = time.monotonic()
    with RunFolder(folder).locked():
        note = entry.Notes()
        if not config.reuse:
            forget(folder)
        chunks = _read_chunks(config)
        chosen = _choose(config, chunks)
        examples = _read_examples()
        note("loading models and index")
        arms = Arms(
            config,
            chunks={corpus: chunks[corpus] for corpus in _corpora(chosen)} if chunks else {},
            examples=examples,
            shots=_shots(config, examples),
        )
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(arms))
            study = Study(config, arms, chosen, Book(folder), folder, note)
            asked = ask_everybody(study)
            judge = stack.enter_context(_opened_judge(config, folder))
            content = _conclude(study, asked, chunks, judge=judge, started_s=started_s)
    return ComparisonResult(folder, content)


def _conclude(
    study: Study,
    asked: Asked,
    chunks: Mapping[Corpus, Sequence[Chunk]],
    *,
    judge: Ask | None,
    started_s: float,
) -> dict[str, Any]:
    """From answers to files; comparison.json last."""
    from coderllm_jax.comparison.deployment import deployments
    from coderllm_jax.comparison.findings import find_out
    from coderllm_jax.comparison.recommendations import recommend
    from coderllm_jax.comparison.results import assemble, write_results
    from coderllm_jax.comparison.scoring import symbols_of
    from coderllm_jax.reporting.comparison_report import write_comparison_report
    from coderllm_jax.training.devices import describe_devices

    config, folder = study.config, study.folder
    devices = describe_devices()
    findings = find_out(
        study,
        asked,
        symbol_of=symbols_of(chunks.get("everything", ())),
        fixed=_fixed_costs(config),
        platform=devices["platform"],
        ask_judge=judge,
    )
    iteration = _propose_next(config, findings, folder)
    content = assemble(
        findings,
        choices=asked.choices,
        ways={"alone": asked.alone, "together": asked.together[findings.main_set]},
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


def _read_chunks(config: ComparisonConfig) -> dict[Corpus, list[Chunk]]:
    """What may be looked up; nothing where no arm does."""
    from coderllm_jax.data.prepared import read_chunks

    if not config.looks_up:
        return {}
    path = Path(config.chunks_path).expanduser()
    if not path.exists():
        raise ConfigError(
            f"chunks_path is {config.chunks_path!r}, which is not there; run "
            "python -m coderllm_jax.prepare, or leave rag and trained_rag out of arms"
        )
    everything = read_chunks(path)
    trained = path / f"{_TRAINED}.jsonl"
    known = read_chunks(trained) if trained.is_file() else everything
    return {"known": known, "everything": everything}


def _corpora(chosen: Chosen) -> list[Corpus]:
    """The indexes that the questions need; prompts are chosen on what is known."""
    from coderllm_jax.comparison.comparing import corpus_of

    needed = [corpus_of(name) for name in chosen.sets]
    if chosen.validation:
        needed.append("known")
    return list(dict.fromkeys(needed))


def _choose(config: ComparisonConfig, chunks: Mapping[Corpus, Sequence[Chunk]]) -> Chosen:
    from coderllm_jax.comparison.questions import choose, choose_own
    from coderllm_jax.generation.trained import find_place
    from coderllm_jax.training.run_folder import RunFolder, read_json

    items = _read_items(config)
    run = find_place(config.run).run if config.needs_run else None
    rows = RunFolder(run).training_rows if run is not None else None
    times = read_json(rows)["times_seen_by_symbol"] if rows is not None and rows.is_file() else None
    known = {chunk.id for chunk in chunks.get("known", ())}
    chosen = choose(
        items,
        num_seen=config.max_items,
        num_unseen=config.unseen_items,
        num_validation=config.validation.items,
        times_seen=times,
        trained_chunks=chunks.get("known"),
        newer_chunks=[chunk for chunk in chunks.get("everything", ()) if chunk.id not in known],
    )
    if config.test_queries:
        return choose_own(config.test_queries, chosen.validation)
    if not chosen.questions:
        raise ConfigError(
            f"none of the {len(items)} evaluation items in {config.items_path} is about what was "
            "trained on and may be looked up; prepare and train on the same data, or set "
            "test_queries"
        )
    return chosen


def _read_items(config: ComparisonConfig) -> list[EvalItem]:
    from coderllm_jax.data.prepared import read_evaluation_items

    path = Path(config.items_path).expanduser()
    if path.exists():
        return read_evaluation_items(path)
    if config.test_queries and config.items_path == ComparisonConfig().items_path:
        return []
    raise ConfigError(
        f"items_path is {config.items_path!r}, which is not there; run "
        "python -m coderllm_jax.prepare, or set test_queries"
    )


def _read_examples() -> list[Example]:
    """The default training rows: for worked examples, and for what is relevant."""
    from coderllm_jax.config.training import DataSection
    from coderllm_jax.data.sources import read_examples
    from coderllm_jax.training.inputs import DEFAULT_TRAINING

    if not DEFAULT_TRAINING.is_dir():
        return []
    return read_examples(str(DEFAULT_TRAINING), DataSection())[0]


def _shots(config: ComparisonConfig, examples: Sequence[Example]) -> list[tuple[str, str]]:
    from coderllm_jax.training.inputs import choose_shots

    most = max(*config.validation.shots, config.prompt.shots)
    return choose_shots(examples, most) if most else []


def _fixed_costs(config: ComparisonConfig) -> dict[str, dict[str, float]]:
    """What each arm spends once, in chip-seconds: training, as the run's own summary has it."""
    from coderllm_jax.generation.trained import find_place
    from coderllm_jax.training.run_folder import RunFolder, read_json

    if not config.needs_run:
        return {}
    run = find_place(config.run).run
    if run is None or not RunFolder(run).summary.is_file():
        return {}
    summary = read_json(RunFolder(run).summary)
    devices = read_json(RunFolder(run).manifest).get("devices", {})
    chips = 1 if devices.get("platform", "cpu") == "cpu" else int(devices.get("count", 1))
    trained = {"training": float(summary["wall_s"]) * chips}
    return {"trained": trained, "trained_rag": dict(trained)}


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
