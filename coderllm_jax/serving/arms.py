"""Which models can be served, and opening them: as few engines as there are weights.

    runs/lora ────┬── trained         lane "trained": one engine, its slots shared by both
                  └── trained-rag
    its model ────┬── base            lane "base"
                  └── rag
    data/chunks ───── one index for both that look up

What can be served is told from what lies there, without loading anything; a part that is missing
costs the arms that need it, unless they were asked for by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from coderllm_jax.config.serving import ARMS, ServingConfig
from coderllm_jax.config.training import DataSection, TrainingConfig
from coderllm_jax.data.prepared import read_chunks
from coderllm_jax.data.sources import read_examples
from coderllm_jax.errors import ConfigError, UserError
from coderllm_jax.generation.answering import LocalAnswerer
from coderllm_jax.generation.opening import open_local
from coderllm_jax.generation.trained import Place, find_place, model_of
from coderllm_jax.model.load import check_source
from coderllm_jax.records import Answerer, Example
from coderllm_jax.retrieval.opening import answer_with_passages, open_searcher
from coderllm_jax.retrieval.search import Searcher
from coderllm_jax.serving.replies import Spell
from coderllm_jax.serving.tickets import Lane, Progress
from coderllm_jax.serving.warm_up import compile_engine
from coderllm_jax.training.inputs import DEFAULT_TRAINING

_LOOKING_UP = frozenset({"rag", "trained-rag"})
_WEIGHTS = {"base": "base", "rag": "base", "trained": "trained", "trained-rag": "trained"}


class Plan(NamedTuple):
    """What will be served. weights: path or name of each kind; missing: arms without, and why."""

    arms: tuple[str, ...]
    weights: Mapping[str, str]
    missing: Mapping[str, str]

    @property
    def looks_up(self) -> bool:
        """Whether an index is needed."""
        return bool(_LOOKING_UP.intersection(self.arms))


class ServedModel(NamedTuple):
    """What a reply says of the model it is from. version: 12 digits of its identity."""

    version: str
    looks_up: bool
    spell: Spell


class Opened(NamedTuple):
    """Models ready to be asked: lanes for the desk, and each arm by name."""

    lanes: tuple[Lane, ...]
    models: Mapping[str, ServedModel]


def plan_arms(config: ServingConfig) -> Plan:
    """What can be served; ConfigError where an arm that was named, or every arm, lacks a part."""
    problems: dict[str, str] = {}
    weights: dict[str, str] = {}
    try:
        place = find_place(config.run)
        if place.folder is None:
            raise ConfigError(f"run is {config.run!r}, which is a model by name; set base_model")
        weights["trained"] = config.run
    except UserError as error:
        place = Place("model", None, None)
        problems["trained"] = str(error)
    base = config.base_model or model_of(place) or TrainingConfig().model_name
    try:
        check_source(base)
        weights["base"] = base
    except UserError as error:
        problems["base"] = str(error)
    if not Path(config.chunks_path).expanduser().exists():
        problems["chunks"] = (
            f"chunks_path is {config.chunks_path!r}, which is not there; run "
            "python -m coderllm_jax.prepare"
        )
    missing: dict[str, str] = {}
    for arm in config.arms or ARMS:
        needed = [_WEIGHTS[arm], *(["chunks"] if arm in _LOOKING_UP else [])]
        lacking = [problems[part] for part in needed if part in problems]
        if lacking:
            missing[arm] = lacking[0]
    if config.arms and missing:
        arm, why = next(iter(missing.items()))
        raise ConfigError(f"{arm} cannot be served: {why}; or leave it out of arms")
    arms = tuple(arm for arm in config.arms or ARMS if arm not in missing)
    if not arms:
        raise ConfigError(f"there is nothing to serve: {missing['base']}")
    used = {_WEIGHTS[arm] for arm in arms}
    return Plan(arms, {kind: path for kind, path in weights.items() if kind in used}, missing)


def open_arms(config: ServingConfig, plan: Plan, note: Callable[[str], None]) -> Opened:
    """Loads what the plan names. Raises a UserError with the remedy."""
    searcher = _open_searcher(config, note) if plan.looks_up else None
    lanes = []
    models: dict[str, ServedModel] = {}
    for kind, path in plan.weights.items():
        note(f"loading {path}")
        inner = open_local(
            path,
            generation=config.generation,
            prompt=config.prompt,
            cache_dir=config.model.cache_dir,
        )
        note(f"compiling for {path}")
        compile_engine(inner.engine)
        arms: dict[str, Answerer] = {}
        poller: Answerer = inner
        for arm in plan.arms:
            if _WEIGHTS[arm] != kind:
                continue
            arms[arm] = inner
            if arm in _LOOKING_UP:
                assert searcher is not None
                arms[arm] = poller = answer_with_passages(
                    inner,
                    searcher,
                    config.retrieval,
                    count_tokens=inner.count_tokens,
                    name=arm,
                )
            models[arm] = ServedModel(
                version_of(arms[arm].identity), arm in _LOOKING_UP, _speller(inner)
            )
        lanes.append(Lane(arms, poller, inner.engine.num_slots, _progress_of(inner)))
    return Opened(tuple(lanes), models)


def version_of(identity: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that stand for everything that can change an answer."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _open_searcher(config: ServingConfig, note: Callable[[str], None]) -> Searcher:
    note("opening the index")
    chunks = read_chunks(Path(config.chunks_path).expanduser())
    examples: list[Example] = []
    if DEFAULT_TRAINING.is_dir():
        examples, _ = read_examples(str(DEFAULT_TRAINING), DataSection())
    searcher = open_searcher(config.retrieval, chunks, examples=examples)
    searcher.search("What is searched first?", 1)  # loads the embedder
    return searcher


def _speller(inner: LocalAnswerer) -> Spell:
    tokenizer = inner.engine.tokenizer
    return lambda token: tokenizer.decode([token], skip_control=False)


def _progress_of(inner: LocalAnswerer) -> Callable[[str], Progress | None]:
    def progress(id: str) -> Progress | None:
        completion = inner.completion(id)
        if completion is None:
            return None
        return Progress(
            len(completion.request.prompt), completion.num_generated, completion.logprobs
        )

    return progress
