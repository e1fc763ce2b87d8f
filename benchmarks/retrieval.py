"""Search, measured: `python -m benchmarks.retrieval [--json=FILE] [--report=FILE]`.

quality   The default chunks (configs/data.py, prepared anew) with word search, vectors and both:
          does the passage of the item's symbol come first, or among five? Beside the default items
          stand hand-written questions that name no symbol, and questions about nothing in there,
          which must find nothing relevant. Weights and words were chosen on the validation
          halves; the other halves are what is claimed. The rule for the relevance threshold was
          chosen with all paraphrases in sight.

scale     A million vectors of 384 dimensions. They are synthetic: topics, clusters in them, and
          noise, such that a vector's cosine with its own cluster is about 0.62, with its topic 0.38
          and with the rest 0. Within a cluster only noise decides, which is hard for codes of 4
          bits. Exact search and ScaNN answer the same queries in turns; medians over rounds count.

Prints both tables, and exits with 1 where a target is missed: hybrid recall@5 of 0.85 on the
default items; ScaNN's recall@10 of 0.95 of exact search's and 10 times its queries/s, one by one
and in batches. A million vectors need 6 GB and most of the time.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from absl import app, flags

from benchmarks.measure import peak_memory_bytes
from benchmarks.retrieval_questions import OFF_TOPIC, PARAPHRASES
from coderllm_jax.config.data import DataConfig
from coderllm_jax.config.retrieval import RetrievalSection
from coderllm_jax.data.preparation import prepare_data
from coderllm_jax.data.prepared import read_chunks, read_evaluation_items
from coderllm_jax.data.sources import read_examples
from coderllm_jax.entry import load_card
from coderllm_jax.records import Chunk, EvalItem
from coderllm_jax.retrieval.metrics import context_precision, ndcg, recall, reciprocal_rank
from coderllm_jax.retrieval.opening import open_searcher
from coderllm_jax.retrieval.search import Searcher, SearchSettings
from coderllm_jax.retrieval.vectors import ExactIndex, ScannIndex, VectorIndex, scann_problem

TARGET_RECALL_5, TARGET_RECALL_10, TARGET_SPEEDUP = 0.85, 0.95, 10.0

_DEPTH, _PASSAGES = 10, 4
_MODES = ("dense", "lexical", "hybrid")
_ROUNDS = 5

# --- quality ------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """A question and the symbols (with their source, where it is known) of which one is right.

    is_validation: whether weights and words were chosen on it.
    """

    question: str
    symbols: tuple[str, ...]
    is_validation: bool
    source: str = ""

    def gains(self, chunks: Sequence[Chunk]) -> dict[str, float]:
        """The ids of its chunks."""
        return {
            chunk.id: 1.0
            for chunk in chunks
            if chunk.symbol in self.symbols and self.source in ("", chunk.source)
        }


class Quality(NamedTuple):
    """Means over questions."""

    recall_1: float
    recall_5: float
    mrr: float
    ndcg_10: float
    context_precision: float
    num_questions: int


def judge(rankings: Sequence[Sequence[str]], gains: Sequence[Mapping[str, float]]) -> Quality:
    """Means over questions that have something relevant at all.

    A question has several right symbols where any one of them is an answer, so recall asks whether
    one was found.
    """
    rows = [
        (
            float(any(name in relevant for name in ranking[:1])),
            float(any(name in relevant for name in ranking[:5])),
            reciprocal_rank(ranking, relevant),
            ndcg(ranking, relevant, k=_DEPTH),
            context_precision(ranking, relevant, k=_PASSAGES),
        )
        for ranking, relevant in zip(rankings, gains, strict=True)
        if relevant
    ]
    return Quality(*np.mean(rows, axis=0).tolist(), num_questions=len(rows))


def measure_quality(folder: Path) -> dict[str, Any]:
    """Everything about the default domain, prepared and indexed in `folder`."""
    card = load_card("configs/data.py")
    card.output_dir = str(folder / "data")
    prepared = prepare_data(DataConfig.from_config_dict(card))
    chunks = read_chunks(prepared.chunks)
    items = read_evaluation_items(prepared.evaluation)
    examples, _ = read_examples(str(prepared.training))
    section = RetrievalSection(index_dir=str(folder / "index"))
    started = time.perf_counter()
    searcher = open_searcher(section, chunks, examples=examples)
    build_s = time.perf_counter() - started
    sets = {"items": asked_of_items(items), "paraphrases": asked_of_paraphrases()}
    thresholds = searcher.index.thresholds
    return {
        "num_chunks": len(chunks),
        "build_s": build_s,
        "open_s": measure_opening(section.index_dir),
        "search_s": _median_search(searcher, [i.question for i in items[:40]]),
        "threshold": thresholds.dense and thresholds.dense._asdict(),
        "answered": {
            name: _answered(searcher, questions)
            for name, questions in {
                **{name: [each.question for each in asked] for name, asked in sets.items()},
                "off_topic": list(OFF_TOPIC),
            }.items()
        },
        "quality": {
            f"{name}, {half}": {
                mode: judge_mode(searcher, mode, chosen, chunks)._asdict() for mode in _MODES
            }
            for name, asked in sets.items()
            for half, chosen in (
                ("validation half", [each for each in asked if each.is_validation]),
                ("other half", [each for each in asked if not each.is_validation]),
                ("all", asked),
            )
        },
    }


def asked_of_items(items: Sequence[EvalItem]) -> list[Asked]:
    """The default items; halved by the hash of their ids, whatever else is among them."""
    return [
        Asked(i.question, (i.symbol,), zlib.crc32(i.id.encode()) % 2 == 0, i.source) for i in items
    ]


def asked_of_paraphrases() -> list[Asked]:
    """The hand-written questions; every other one is for validation."""
    return [Asked(q, symbols, n % 2 == 0) for n, (q, symbols) in enumerate(PARAPHRASES)]


def judge_mode(
    searcher: Searcher, mode: str, asked: Sequence[Asked], chunks: Sequence[Chunk]
) -> Quality:
    """How well one way of searching does on these questions."""
    settings = SearchSettings(mode=mode)
    moded = Searcher(searcher.index, searcher.embedder, settings)
    rankings = [
        [hit.chunk.id for hit in moded.search(each.question, _DEPTH).hits] for each in asked
    ]
    return judge(rankings, [each.gains(chunks) for each in asked])


def measure_opening(index_dir: str) -> float:
    """Seconds from opening to the first words found, in a process that has imported nothing."""
    program = (
        "import time; started = time.perf_counter(); "
        "from coderllm_jax.retrieval.store import open_index; "
        f"open_index({index_dir!r}).lexical.score('adam'); print(time.perf_counter() - started)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for _ in range(_ROUNDS)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def _answered(searcher: Searcher, questions: Sequence[str]) -> float:
    return statistics.mean(
        any(hit.is_relevant for hit in searcher.search(question, _PASSAGES).hits)
        for question in questions
    )


def _median_search(searcher: Searcher, questions: Sequence[str]) -> dict[str, float]:
    found = [searcher.search(question, _PASSAGES) for question in questions]
    return {
        "embed": statistics.median(each.embed_s for each in found),
        "search": statistics.median(each.search_s for each in found),
    }


def quality_table(figures: Mapping[str, Any]) -> str:
    """The figures as people read them."""
    head = f"{'':<34}{'':<9}{'recall@1':>9}{'recall@5':>9}{'MRR':>7}{'nDCG@10':>9}{'prec@4':>8}"
    lines = [head, "-" * len(head)]
    for name, modes in figures["quality"].items():
        for mode, q in modes.items():
            title = f"{name} ({q['num_questions']})" if mode == _MODES[0] else ""
            lines.append(
                f"{title:<34}{mode:<9}{q['recall_1']:>9.3f}{q['recall_5']:>9.3f}{q['mrr']:>7.3f}"
                f"{q['ndcg_10']:>9.3f}{q['context_precision']:>8.3f}"
            )
    answered, search_s = figures["answered"], figures["search_s"]
    threshold = figures["threshold"]
    lines += [
        "",
        f"something relevant found for {answered['items']:.1%} of the items, "
        f"{answered['paraphrases']:.1%} of the paraphrases, "
        f"{answered['off_topic']:.1%} of the off-topic questions; from a cosine of "
        f"{threshold['value']:.3f} on, or where the passage says a name of the question",
        f"{figures['num_chunks']} chunks indexed in {figures['build_s']:.1f} s with loading the "
        f"model; opened, and the first words found, in {figures['open_s']:.2f} s; a question takes "
        f"{1000 * search_s['embed']:.0f} ms to embed and {1000 * search_s['search']:.1f} ms to "
        "search",
    ]
    return "\n".join(lines)


# --- scale --------------------------------------------------------------------------------------


def make_vectors(
    number: int, dimensions: int, *, num_queries: int, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Clustered vectors [N, D] and queries [Q, D] like them, all of length 1."""
    chance = np.random.default_rng(seed)
    num_clusters = max(1, number // 50)
    topics = _unit(chance.normal(size=(max(1, num_clusters // 100), dimensions)))
    of_topic = chance.integers(len(topics), size=num_clusters)
    centres = topics[of_topic] + 0.8 * _unit(chance.normal(size=(num_clusters, dimensions)))
    centres = centres.astype(np.float32)
    # Zipf's law for the sizes of clusters, from largest to smallest by a factor of 30.
    weights = 1 / (1 + 29 * np.arange(num_clusters) / num_clusters)
    made = []
    for count in (number, num_queries):
        vectors_ND = centres[chance.choice(num_clusters, size=count, p=weights / weights.sum())]
        for start in range(0, count, 65_536):
            rows = vectors_ND[start : start + 65_536]
            noise = chance.standard_normal(rows.shape, np.float32) / np.sqrt(dimensions)
            rows += noise.astype(np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        made.append(vectors_ND)
    return made[0], made[1]


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measure_scale(number: int, dimensions: int, *, batch: int, seed: int) -> dict[str, Any]:
    """Recall and queries/s of ScaNN beside exact search."""
    vectors_ND, queries_QD = make_vectors(number, dimensions, num_queries=batch, seed=seed)
    exact = ExactIndex(vectors_ND)
    started = time.perf_counter()
    scann = ScannIndex.build(vectors_ND)
    build_s = time.perf_counter() - started
    expected, found = exact.search(queries_QD, _DEPTH), scann.search(queries_QD, _DEPTH)
    rounds = [
        {
            name: _queries_per_s(index, queries_QD, num_single)
            for name, index, num_single in (("exact", exact, 4), ("scann", scann, 64))
        }
        for _ in range(_ROUNDS)
    ]
    kinds = ("single", "batched")
    medians = {
        name: {kind: statistics.median(r[name][kind] for r in rounds) for kind in kinds}
        for name in ("exact", "scann")
    }
    return {
        "vectors": number,
        "dimensions": dimensions,
        "batch": batch,
        "build_s": build_s,
        "recall_10": recall_of(found.positions_QK, expected.positions_QK),
        "queries_per_s": medians,
        # Both of one round met the same load of the machine.
        "speedup": {
            kind: statistics.median(r["scann"][kind] / r["exact"][kind] for r in rounds)
            for kind in kinds
        },
        "cosine_first": float(expected.scores_QK[:, 0].mean()),
        "cosine_tenth": float(expected.scores_QK[:, -1].mean()),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def recall_of(found_QK: npt.NDArray[np.int64], expected_QK: npt.NDArray[np.int64]) -> float:
    """The mean part of the exact neighbours that was found."""
    return statistics.mean(
        recall([str(p) for p in found], {str(p): 1.0 for p in expected}, k=len(expected))
        for found, expected in zip(found_QK, expected_QK, strict=True)
    )


def _queries_per_s(
    index: VectorIndex, queries_QD: npt.NDArray[np.float32], num_single: int
) -> dict[str, float]:
    def rate(queries: Sequence[npt.NDArray[np.float32]]) -> float:
        started = time.perf_counter()
        for rows in queries:
            index.search(rows, _DEPTH)
        return sum(map(len, queries)) / (time.perf_counter() - started)

    return {
        "single": rate([q[None] for q in queries_QD[:num_single]]),
        "batched": rate([queries_QD]),
    }


def scale_table(figures: Mapping[str, Any]) -> str:
    """The figures as people read them."""
    rates, speedup = figures["queries_per_s"], figures["speedup"]
    head = f"{'':<30}{'exact':>12}{'ScaNN':>12}{'ratio':>9}"
    lines = [
        f"{figures['vectors']:,} clustered synthetic vectors of {figures['dimensions']} "
        f"dimensions; cosine of the first and tenth neighbour {figures['cosine_first']:.2f} and "
        f"{figures['cosine_tenth']:.2f}",
        "",
        head,
        "-" * len(head),
        f"{'recall@10':<30}{1:>12.3f}{figures['recall_10']:>12.3f}",
    ]
    for kind, title in (("single", "one by one"), ("batched", f"{figures['batch']} at once")):
        lines.append(
            f"{'queries/s, ' + title:<30}{rates['exact'][kind]:>12.1f}"
            f"{rates['scann'][kind]:>12.1f}{speedup[kind]:>9.1f}"
        )
    lines += [
        "",
        f"built in {figures['build_s']:.0f} s; peak memory "
        f"{figures['peak_memory_bytes'] / 2**30:.1f} GiB",
    ]
    return "\n".join(lines)


# --- both ---------------------------------------------------------------------------------------


def missed_targets(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What should have been reached and was not, a line each."""
    checks = []
    if "quality" in found:
        for half in ("other half", "all"):
            figure = found["quality"]["quality"][f"items, {half}"]["hybrid"]["recall_5"]
            checks.append((f"hybrid recall@5 on the items, {half}", figure, TARGET_RECALL_5))
    if "scale" in found:
        scale = found["scale"]
        checks.append(("ScaNN's recall@10", scale["recall_10"], TARGET_RECALL_10))
        for kind, ratio in scale["speedup"].items():
            checks.append((f"ScaNN's speed beside exact search's, {kind}", ratio, TARGET_SPEEDUP))
    return [
        f"{name} is {figure:.3f}; expected at least {target:g}"
        for name, figure, target in checks
        if not figure >= target
    ]


def page(text: str, conditions: Mapping[str, Any]) -> str:
    """The Markdown page around what was printed."""
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    return (
        "# Retrieval: what is found, and how fast\n\n"
        f"`python -m benchmarks.retrieval`, {conditions['date']}, {conditions['cores']} cores, "
        f"{conditions['machine']}, Python {conditions['python']}, {versions}; load "
        f"{conditions['load_before'][0]:.1f} before; {conditions['wall_s'] / 60:.0f} min.\n\n"
        f"```\n{text}\n```\n\n"
        "`dense` is all-MiniLM-L6-v2, `lexical` BM25 with names as a ranking of their own, "
        "`hybrid` both, fused. An item's right passage is that of its symbol; a paraphrase names "
        "no symbol, and any of several may be right. Weights and words were chosen on the "
        "validation halves, the rule of the relevance threshold with all paraphrases in sight. "
        "`prec@4` is context precision over the four passages that a prompt holds. Ratios are "
        "medians over rounds in which exact search and ScaNN took turns.\n"
    )


def _conditions() -> dict[str, Any]:
    packages = ("sentence-transformers", "torch", "bm25s", "scann", "numpy")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "load_before": os.getloadavg(),
    }


def define_flags() -> None:
    """The command's flags; tests import this module beside others that have some of these names."""
    flags.DEFINE_string("json", "", "Also write the figures to this file.")
    flags.DEFINE_string("report", "", "Also write the page to this file (Markdown).")
    flags.DEFINE_list("part", ["quality", "scale"], "What is measured.")
    flags.DEFINE_integer("vectors", 1_000_000, "Vectors of the part `scale`.", lower_bound=1000)
    flags.DEFINE_integer("dimensions", 384, "Their dimensions.", lower_bound=2)
    flags.DEFINE_integer("batch", 512, "Queries at once.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Chooses the vectors.")


def main(argv: list[str]) -> None:
    """Measures what is asked for, prints and writes it, exits with 1 where a target is missed."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    parts: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[Mapping[str, Any]], str]]] = {
        "quality": (_quality, quality_table),
        "scale": (_scale, scale_table),
    }
    if unknown := [name for name in flags.FLAGS.part if name not in parts]:
        raise app.UsageError(f"--part names {unknown[0]!r}; expected {', '.join(parts)}")
    if "scale" in flags.FLAGS.part and (problem := scann_problem()):
        raise SystemExit(f"error: {problem}; use --part=quality")
    started, conditions = time.perf_counter(), _conditions()
    found = {name: parts[name][0]() for name in flags.FLAGS.part}
    conditions["wall_s"] = time.perf_counter() - started
    text = "\n\n\n".join(parts[name][1](figures) for name, figures in found.items())
    print(text)
    if flags.FLAGS.json:
        content = {"conditions": conditions, **found}
        Path(flags.FLAGS.json).write_text(json.dumps(content, indent=1) + "\n")
    if flags.FLAGS.report:
        Path(flags.FLAGS.report).write_text(page(text, conditions))
    if missed := missed_targets(found):
        raise SystemExit("\n".join(["", *missed]))


def _quality() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return measure_quality(Path(folder))


def _scale() -> dict[str, Any]:
    options = flags.FLAGS
    return measure_scale(
        options.vectors, options.dimensions, batch=options.batch, seed=options.seed
    )


if __name__ == "__main__":
    define_flags()
    app.run(main)
