"""Everything a comparison reads, put together once: questions, chunks, examples, what was spent.

data/evaluation ─┐
runs/lora        ├──► questions (questions.choose), the chunks that each set may look up
data/chunks ─────┘
data/training ──────► worked examples, and what is relevant to what
runs/lora ──────────► the machine time of its training
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from coderllm_jax.comparison.arms import Corpus
from coderllm_jax.comparison.comparing import corpus_of
from coderllm_jax.comparison.next_card import configuration_of
from coderllm_jax.comparison.questions import Chosen, choose, choose_own
from coderllm_jax.config.comparison import ComparisonConfig
from coderllm_jax.config.training import DataSection
from coderllm_jax.data.prepared import read_chunks, read_evaluation_items
from coderllm_jax.data.sources import read_examples
from coderllm_jax.errors import ConfigError
from coderllm_jax.generation.trained import find_place
from coderllm_jax.records import Chunk, EvalItem, Example
from coderllm_jax.training.inputs import DEFAULT_TRAINING, choose_shots
from coderllm_jax.training.run_folder import RunFolder, read_json

_TRAINED = "trained.jsonl"


class Inputs(NamedTuple):
    """chunks: of each corpus that is searched. shots: as many worked examples as any plan asks for.

    fixed: chip-seconds that each arm spends once, by what for.
    """

    chosen: Chosen
    chunks: Mapping[Corpus, Sequence[Chunk]]
    symbol_of: Mapping[str, str]
    examples: Sequence[Example]
    shots: Sequence[tuple[str, str]]
    fixed: Mapping[str, Mapping[str, float]]


def read_inputs(config: ComparisonConfig) -> Inputs:
    """Reads it all; no model is loaded. Raises ConfigError and DataError with the remedy."""
    chunks = _read_chunks(config)
    chosen = _choose(config, chunks)
    examples = _read_rows(config)
    most_shots = max(*config.validation.shots, config.prompt.shots)
    needed = {corpus_of(name) for name in chosen.sets}
    if chosen.validation:  # prompts are chosen on what is known
        needed.add("known")
    return Inputs(
        chosen,
        {corpus: held for corpus, held in chunks.items() if corpus in needed},
        {chunk.id: chunk.symbol for chunk in chunks.get("everything", ())},
        examples,
        choose_shots(examples, most_shots) if most_shots else [],
        _fixed_costs(config),
    )


def _read_chunks(config: ComparisonConfig) -> dict[Corpus, list[Chunk]]:
    """What may be looked up; nothing where no arm does."""
    if not config.looks_up:
        return {}
    path = Path(config.chunks_path).expanduser()
    if not path.exists():
        raise ConfigError(
            f"chunks_path is {config.chunks_path!r}, which is not there; run "
            "python -m coderllm_jax.prepare, or leave rag and trained_rag out of arms"
        )
    everything = read_chunks(path)
    trained = path / _TRAINED
    known = read_chunks(trained) if trained.is_file() else everything
    return {"known": known, "everything": everything}


def _choose(config: ComparisonConfig, chunks: Mapping[Corpus, Sequence[Chunk]]) -> Chosen:
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
    path = Path(config.items_path).expanduser()
    if path.exists():
        return read_evaluation_items(path)
    if config.test_queries and config.items_path == ComparisonConfig().items_path:
        return []
    raise ConfigError(
        f"items_path is {config.items_path!r}, which is not there; run "
        "python -m coderllm_jax.prepare, or set test_queries"
    )


def _read_rows(config: ComparisonConfig) -> list[Example]:
    """The rows that the run was trained on, or else the default ones; none where they are gone."""
    run = find_place(config.run).run if config.needs_run else None
    section = DataSection()
    if run is not None:
        section = configuration_of(read_json(RunFolder(run).config)).data
    for path in (section.path, str(DEFAULT_TRAINING)):
        if path and (path.startswith("tfds://") or Path(path).expanduser().exists()):
            return read_examples(path, section)[0]
    return []


def _fixed_costs(config: ComparisonConfig) -> dict[str, dict[str, float]]:
    """What each arm spends once, in chip-seconds: training, as the run's own summary has it."""
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
