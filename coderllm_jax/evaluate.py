"""`python -m coderllm_jax.evaluate`: a model in, figures with intervals and a page out.

    configuration ──► who answers ──► suites, one after another ──► results.json, samples.jsonl,
                     (generation)     (evaluation)                  report/, metrics/ (CLU)

Everything that was answered, judged or measured is kept as it comes, so an evaluation that ends
early goes on with the same command, and a second one costs seconds. Heavy imports wait until there
is something to evaluate, so that --help answers at once.

Exit codes: 0 done, 1 a mistake that a retry would meet again, 3 the regression gate has failed,
42 interrupted by a signal: the same command goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coderllm_jax import entry
from coderllm_jax.config.command_line import Shorthand
from coderllm_jax.config.evaluation import EvaluationConfig
from coderllm_jax.errors import ConfigError

if TYPE_CHECKING:
    from coderllm_jax.evaluation.context import Context
    from coderllm_jax.evaluation.results import SuiteResult
    from coderllm_jax.records import Answerer, EvalItem

GATE_FAILED = 3


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """An evaluation as it stands: its folder and what results.json holds."""

    folder: Path
    results: dict[str, Any]

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """Every figure by suite and name: {"qa_accuracy/seen/fact_f1": {"value": ..., ...}}."""
        return {
            f"{suite}/{name}": figure
            for suite, content in self.results["suites"].items()
            for name, figure in content["figures"].items()
        }

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report" / "index.html"

    @property
    def gate(self) -> str:
        """What the regression gate says: passed, failed, or "" where nothing was compared."""
        return self.results["suites"].get("regression", {}).get("details", {}).get("gate", "")

    def __repr__(self) -> str:
        figures = ", ".join(
            f"{name} {figure['value']:.3f}"
            for name, figure in self.figures.items()
            if figure["value"] is not None and name.endswith(("pass@1", "fact_f1"))
        )
        return f"EvaluationResult({figures}, report={str(self.report)!r})"


def main(config: EvaluationConfig) -> int:
    """Evaluates, prints every figure, and returns the exit code."""
    from coderllm_jax.reporting.evaluation_text import describe_results

    result = evaluate_model(config)
    print(describe_results(result.folder, result.results))
    return GATE_FAILED if result.gate == "failed" else 0


def evaluate_model(config: EvaluationConfig | Mapping[str, Any]) -> EvaluationResult:
    """Runs the suites that `config` names and writes what they find.

    Raises a UserError that names the remedy where configuration, model, data or folder cannot be
    used, before anything is computed, and ResumableError where a signal ended it.
    """
    if not isinstance(config, EvaluationConfig):
        config = EvaluationConfig.from_config_dict(config)
    if config.samples:
        return _judge_samples(config)
    from coderllm_jax.training.devices import check_platform, prepare_process

    prepare_process(platform=config.generation.platform, cache_dir=config.model.cache_dir)
    _check_sources(config)
    if not config.endpoint.url:
        check_platform(config.generation.platform)
    with entry.ends_on_signals():
        return _evaluate(config)


def _check_sources(config: EvaluationConfig) -> None:
    """The files and folders that the options name, before any device is touched."""
    from coderllm_jax.generation.trained import find_place
    from coderllm_jax.model.load import check_source

    if not config.endpoint.url and find_place(config.model_path).folder is None:
        check_source(config.model_path)


def _evaluate(config: EvaluationConfig) -> EvaluationResult:
    from coderllm_jax.evaluation.asking import AnswerProgress, Asker
    from coderllm_jax.evaluation.context import Context
    from coderllm_jax.evaluation.suites import run_suites
    from coderllm_jax.training.run_folder import RunFolder

    run = _run_behind(config)
    folder = evaluation_folder(config, run)
    with RunFolder(folder).locked():
        note = entry.Notes()
        note("loading the model" if not config.endpoint.url else "asking the server for its models")
        items, details = _choose_items(config, run, note)
        with contextlib.ExitStack() as stack:
            answerer = stack.enter_context(contextlib.closing(_open_answerer(config)))
            if not config.reuse:
                forget(folder)
            asker = Asker(answerer, folder / "answers.jsonl", progress=AnswerProgress("answers"))
            context = Context(config, answerer, asker, items, folder, note)
            if config.judge.url:
                judge = stack.enter_context(contextlib.closing(_open_judge(config)))
                ask_judge = Asker(
                    judge, folder / "opinions.jsonl", progress=AnswerProgress("opinions")
                )
                context = dataclasses.replace(context, judge=ask_judge)
            manifest = _manifest(context, details)
            results = run_suites(context, manifest)
            content = _write(context, results, manifest)
    return EvaluationResult(folder, content)


def _judge_samples(config: EvaluationConfig) -> EvaluationResult:
    """The code suite over a file of answers; nothing is asked and no model is loaded."""
    from coderllm_jax.evaluation.code_generation import judge_file
    from coderllm_jax.evaluation.results import write_results
    from coderllm_jax.training.run_folder import RunFolder

    folder = evaluation_folder(config, None)
    with RunFolder(folder).locked():
        result = judge_file(config.samples, config.code, folder, seed=config.seed)
        content = write_results(folder, [result], {"samples": config.samples})
        _write_page(folder, content, result.samples)
    return EvaluationResult(folder, content)


def evaluation_folder(config: EvaluationConfig, run: Path | None) -> Path:
    """Where it is written: `workdir`, else the run that is evaluated, else runs/NAME."""
    if config.workdir:
        return Path(config.workdir).expanduser() / "evaluation"
    if run is not None:
        return run / "evaluation"
    if config.samples:
        name = Path(config.samples).stem
    elif config.endpoint.url:
        name = config.endpoint.model or "endpoint"
    else:
        name = config.model_path.rstrip("/")
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name.rpartition("/")[2])
    return Path("runs") / (safe or "model") / "evaluation"


def forget(folder: Path) -> None:
    """Removes what was kept of earlier evaluations in this folder."""
    for name in (
        "answers.jsonl",
        "verdicts.jsonl",
        "examples.jsonl",
        "opinions.jsonl",
        "suites.jsonl",
    ):
        (folder / name).unlink(missing_ok=True)


def _run_behind(config: EvaluationConfig) -> Path | None:
    from coderllm_jax.generation.trained import find_place

    return None if config.endpoint.url else find_place(config.model_path).run


def _open_answerer(config: EvaluationConfig) -> Answerer:
    from coderllm_jax.generation.opening import open_endpoint, open_local

    if config.endpoint.url:
        return open_endpoint(config.endpoint)
    return open_local(
        config.model_path,
        generation=config.generation,
        prompt=config.prompt,
        cache_dir=config.model.cache_dir,
    )


def _open_judge(config: EvaluationConfig) -> Answerer:
    from coderllm_jax.config.generation import EndpointSection
    from coderllm_jax.generation.opening import open_endpoint

    section = config.judge
    return open_endpoint(
        EndpointSection(
            url=section.url, model=section.model, api_key_variable=section.api_key_variable
        )
    )


def _choose_items(
    config: EvaluationConfig, run: Path | None, note: Callable[[str], None]
) -> tuple[list[EvalItem], dict[str, Any]]:
    """The questions, and what the manifest says of them; none where nobody prepared any."""
    from coderllm_jax.data.prepared import read_evaluation_items
    from coderllm_jax.evaluation.items import choose_questions
    from coderllm_jax.training.inputs import items_sha256
    from coderllm_jax.training.run_folder import RunFolder, read_json

    path = Path(config.items_path).expanduser()
    if not path.exists():
        if config.items_path != EvaluationConfig().items_path:
            raise ConfigError(f"items_path is {config.items_path!r}, which is not there; mend it")
        note(f"{config.items_path} is not there; run prepare to have questions with answers")
        return [], {"num_items": 0}
    rows = RunFolder(run).training_rows if run is not None else None
    times = read_json(rows)["times_seen_by_symbol"] if rows is not None and rows.is_file() else None
    chosen = choose_questions(
        read_evaluation_items(path), config.answers.max_items, times_seen=times
    )
    return list(chosen.items), {
        "num_items": len(chosen.items),
        "num_moved": chosen.num_moved,
        "seen_by": "the run's training_rows.json" if times is not None else "the file",
        "sha256": items_sha256(chosen.items),
    }


def _manifest(context: Context, items: Mapping[str, Any]) -> dict[str, Any]:
    """Everything needed to say later what was evaluated, and how."""
    from coderllm_jax.training.devices import describe_devices
    from coderllm_jax.training.manifest import git_commit, versions

    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "answerer": {"name": context.answerer.name, **context.answerer.identity},
        "items": dict(items),
        "config": context.config.to_dict(),
        "versions": versions(),
        "commit": git_commit(),
        "devices": describe_devices(),
    }


def _write(
    context: Context, results: Sequence[SuiteResult], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """results.json, samples.jsonl, the page and CLU's summaries."""
    from coderllm_jax.evaluation.baseline import store_baseline
    from coderllm_jax.evaluation.results import write_results

    config = context.config
    content = write_results(context.folder, results, manifest)
    _write_page(context.folder, content, [row for result in results for row in result.samples])
    if config.clu:
        _write_summaries(context.folder, content)
    if config.regression.update_baseline:
        store_baseline(context.folder)
    return content


def _write_page(
    folder: Path, content: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> None:
    from coderllm_jax.reporting.evaluation_report import write_evaluation_report

    write_evaluation_report(folder, content, samples)


def _write_summaries(folder: Path, content: Mapping[str, Any]) -> None:
    """Every figure as a CLU scalar, under the suite's name."""
    from coderllm_jax.monitoring.writers import write_clu_scalars

    write_clu_scalars(
        folder / "metrics",
        {
            f"{suite}/{name}": figure["value"]
            for suite, result in content["suites"].items()
            for name, figure in result["figures"].items()
            if figure["value"] is not None
        },
    )


if __name__ == "__main__":
    entry.run(
        main,
        EvaluationConfig,
        "configs/evaluation.py",
        computes=True,
        shorthand=Shorthand({"update-baseline": "regression.update_baseline"}),
    )
