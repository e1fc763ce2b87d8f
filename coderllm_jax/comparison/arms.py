"""Who is compared: answerers over as few weights as there are, each put to its best.

    weights    base ───────┬── base            plain
                           └── rag             passages before the question
               trained ────┬── trained         plain
                           └── trained_rag     passages before the question
    a server ────────────────── endpoint       its own prompt, its own machine

Arms that share weights share one engine, and all engines have one setting (slots, longest prompt,
number formats), so that nothing but weights and prompt tells arms apart. An engine keeps nothing of
a prompt that was answered, so no arm profits from another's.

Retrieval searches one of two indexes: `known` holds the chunks of what was trained on, `everything`
the newer ones too.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import psutil

from coderllm_jax.comparison.prompts import Plan
from coderllm_jax.config.comparison import LOOKING_UP, ComparisonConfig
from coderllm_jax.config.generation import PromptSection
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.data.prompts import PromptStyle
from coderllm_jax.errors import ConfigError
from coderllm_jax.generation.answering import LocalAnswerer, answer_all
from coderllm_jax.generation.cache import empty_caches
from coderllm_jax.generation.engine import Engine
from coderllm_jax.generation.opening import open_endpoint, open_local
from coderllm_jax.generation.trained import find_place, model_of
from coderllm_jax.records import Answerer, Chunk, Example, Query
from coderllm_jax.retrieval.embedder import Embedder
from coderllm_jax.retrieval.opening import answer_with_passages, make_embedder, open_searcher
from coderllm_jax.retrieval.passages import ground_question
from coderllm_jax.retrieval.search import Searcher
from coderllm_jax.retrieval.words import split_words

LABELS = {
    "trained": "Fine-tuned",
    "rag": "Retrieval",
    "base": "Base",
    "trained_rag": "Fine-tuned + retrieval",
    "endpoint": "Endpoint",
}
Corpus = Literal["known", "everything"]
_WEIGHTS = {"trained": "trained", "trained_rag": "trained", "rag": "base", "base": "base"}
# Passages in a worked example leave most of the prompt to the question's own.
_EXAMPLE_PASSAGES, _EXAMPLE_PART = 2, 4


@dataclasses.dataclass(frozen=True)
class Arm:
    """Somebody who is compared. knows_turns: whether chat turns are a prompt to try first.

    `weights` names the engine that it shares, empty for an endpoint. memory: bytes by part.
    """

    name: str
    model: str
    weights: str
    knows_turns: bool
    memory: Mapping[str, int]

    @property
    def label(self) -> str:
        """For a person."""
        return LABELS[self.name]

    @property
    def looks_up(self) -> bool:
        """Whether passages stand before its questions."""
        return self.name in LOOKING_UP


class _Weights(NamedTuple):
    engine: Engine
    model: str
    knows_turns: bool
    identity: Mapping[str, Any]
    memory: Mapping[str, int]


class Arms:
    """Everybody who is compared, opened. Close it after use."""

    def __init__(
        self,
        config: ComparisonConfig,
        *,
        chunks: Mapping[Corpus, Sequence[Chunk]],
        examples: Sequence[Example],
        shots: Sequence[tuple[str, str]],
        embedder: Embedder | None = None,
    ) -> None:
        """Loads weights and opens, or builds, the indexes; `chunks` names those that are searched.

        shots: worked examples, as many as any plan asks for. Raises a UserError with the remedy.
        """
        self._config, self._shots = config, tuple(shots)
        self._weights: dict[str, _Weights] = {}
        self._searchers: dict[Corpus, Searcher] = {}
        self._endpoint = open_endpoint(config.endpoint) if "endpoint" in config.arms else None
        # Trained weights first: they say which model they were trained on.
        for kind in ("trained", "base"):
            if kind in {_WEIGHTS.get(name) for name in config.arms}:
                path = config.run if kind == "trained" else base_model(config)
                self._weights[kind] = _load(path, config)
        embedder_bytes = 0
        if chunks:
            before = psutil.Process().memory_info().rss
            embedder = embedder or make_embedder(config.retrieval)
            for corpus, held in chunks.items():
                self._searchers[corpus] = _open_searcher(
                    config, corpus, held, examples=examples, embedder=embedder
                )
            embedder.embed_queries(["What is searched first?"])  # loads it
            embedder_bytes = max(0, psutil.Process().memory_info().rss - before)
        self.arms = tuple(self._arm(name, embedder_bytes) for name in config.arms)

    @property
    def num_shots(self) -> int:
        """Worked examples that there are."""
        return len(self._shots)

    @property
    def identities(self) -> dict[str, Any]:
        """Which weights each kind is, and how they are computed with, for the manifest."""
        return {
            kind: {**weights.identity, "setting": weights.engine.setting}
            for kind, weights in self._weights.items()
        }

    @property
    def indexes(self) -> dict[str, Any]:
        """What is searched, for the manifest."""
        return {
            corpus: {
                "sha256": searcher.index.manifest.sha256,
                "chunks": searcher.index.manifest.num_chunks,
                "embedding": dict(searcher.index.manifest.recipe["embedding"]),
            }
            for corpus, searcher in self._searchers.items()
        }

    def answerer(self, arm: Arm, plan: Plan | None, corpus: Corpus) -> Answerer:
        """The arm as it is to be asked; plan: None for an endpoint."""
        if self._endpoint is not None and arm.name == "endpoint":
            return self._endpoint
        assert plan is not None
        weights = self._weights[arm.weights]
        shots = self._shots[: plan.shots]
        if plan.shows_passages:
            shots = self._with_passages(arm, plan, corpus)
        style = PromptStyle(plan.kind, shots if plan.kind == "few_shot" else ())
        inner = LocalAnswerer(
            weights.engine, name=arm.name, style=style, model=dict(weights.identity)
        )
        if not arm.looks_up:
            return inner
        return answer_with_passages(
            inner,
            self._searchers[corpus],
            self._section(plan),
            count_tokens=inner.count_tokens,
            name=arm.name,
        )

    def close(self) -> None:
        """Lets go of connections and weights."""
        if self._endpoint is not None:
            self._endpoint.close()
        self._weights.clear()
        self._searchers.clear()

    def _section(self, plan: Plan) -> Any:
        return dataclasses.replace(
            self._config.retrieval,
            passages=plan.passages,
            depth=max(self._config.retrieval.depth, plan.passages),
            prompt="cite" if plan.cites else "plain",
        )

    def _with_passages(self, arm: Arm, plan: Plan, corpus: Corpus) -> tuple[tuple[str, str], ...]:
        """The worked examples as they would have been asked, with what was found for them."""
        weights = self._weights[arm.weights]
        inner = LocalAnswerer(weights.engine, name="examples", style=PromptStyle(), model={})
        section = dataclasses.replace(
            self._section(plan),
            passages=min(plan.passages, _EXAMPLE_PASSAGES),
            passage_tokens=max(16, self._config.retrieval.passage_tokens // _EXAMPLE_PART),
        )
        finder = answer_with_passages(
            inner, self._searchers[corpus], section, count_tokens=inner.count_tokens
        )
        shown = []
        for question, answer in self._shots[: plan.shots]:
            block = finder.look_up(question)
            cited = plan.cites and block.shown
            marker = f" [{_best_support(answer, block.shown)}]" if cited else ""
            shown.append((ground_question(block, question, cite=plan.cites), answer + marker))
        return tuple(shown)

    def _arm(self, name: str, embedder_bytes: int) -> Arm:
        if name == "endpoint":
            assert self._endpoint is not None
            return Arm(name, str(self._endpoint.identity["model"]), "", True, {})
        weights = self._weights[_WEIGHTS[name]]
        memory = dict(weights.memory)
        if name in LOOKING_UP:
            manifest = next(iter(self._searchers.values())).index.manifest
            memory["index"] = sum(digest.bytes for digest in manifest.files.values())
            memory["embedder"] = embedder_bytes
        return Arm(name, weights.model, _WEIGHTS[name], weights.knows_turns, memory)


def base_model(config: ComparisonConfig) -> str:
    """The base arm's model: the one that is named, else the one that the run was trained on."""
    if config.base_model:
        return config.base_model
    is_there = bool(config.run) and Path(config.run).expanduser().exists()
    found = model_of(find_place(config.run)) if is_there else ""
    if not found and config.needs_run:
        raise ConfigError(
            f"base_model is empty and run is {config.run!r}, which does not say what it was "
            "trained on; set base_model"
        )
    return found or TrainingConfig().model_name


def warm_up(answerer: Answerer, *, max_length: int) -> None:
    """Has every program compiled that answering may need, and the embedder loaded."""
    lengths = [1 << power for power in range(5, 10) if 1 << power < max_length - 8]
    queries = [
        Query(f"warm-up/{length}", continues="a " * length, max_new_tokens=2) for length in lengths
    ]
    queries.append(Query.from_question("warm-up/question", "What is this?", max_new_tokens=2))
    answer_all(answerer, queries)


def _load(path: str, config: ComparisonConfig) -> _Weights:
    before = _live_bytes()
    opened = open_local(
        path,
        generation=config.generation,
        prompt=PromptSection(style="chat"),
        cache_dir=config.model.cache_dir,
    )
    identity = opened.identity["model"]
    knows_turns = "trained" in identity or bool(identity["is_instructed"])
    memory = _engine_memory(opened.engine, _live_bytes() - before)
    return _Weights(opened.engine, str(identity["name"]), knows_turns, identity, memory)


def _open_searcher(
    config: ComparisonConfig,
    corpus: Corpus,
    chunks: Sequence[Chunk],
    *,
    examples: Sequence[Example],
    embedder: Embedder,
) -> Searcher:
    """`known` in the folder that the options name, `everything` beside it."""
    folder = Path(config.retrieval.index_dir)
    if corpus == "everything":
        folder = folder.with_name(f"{folder.name}_everything")
    section = dataclasses.replace(config.retrieval, index_dir=str(folder))
    return open_searcher(section, chunks, examples=examples, embedder=embedder)


def _live_bytes() -> int:
    """What all arrays on devices take; on CPUs that is this process's memory."""
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


def _engine_memory(engine: Engine, total_bytes: int) -> dict[str, int]:
    """What an engine's caches take, and everything else that came with it."""
    caches = jax.eval_shape(
        lambda: empty_caches(
            engine.architecture,
            num_slots=engine.num_slots,
            max_length=engine.max_length,
            dtype=engine.options.precision.operands,
        )
    )
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(caches))
    return {"weights": total_bytes - cache, "cache": cache}


def _best_support(answer: str, passages: Sequence[str]) -> int:
    """The number of the passage that shares the most words with the answer."""
    said = set(split_words(answer).all)
    shared = [len(said & set(split_words(passage).all)) for passage in passages]
    return 1 + shared.index(max(shared))
