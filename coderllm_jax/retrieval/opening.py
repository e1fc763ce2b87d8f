"""From the options of `config.retrieval` to a searcher, and to an answerer that looks up.

section, chunks ── the index: opened, built where there is none, or refused ── Searcher
section, searcher, an answerer ──────────────────────────────────── RetrievalAnswerer
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from coderllm_jax.config.retrieval import RetrievalSection
from coderllm_jax.data.tokens import TokenCounter
from coderllm_jax.records import Answerer, Chunk, Example
from coderllm_jax.retrieval.answering import PassageSettings, RetrievalAnswerer
from coderllm_jax.retrieval.building import build_index
from coderllm_jax.retrieval.embedder import Embedder, SentenceEmbedder, find_model
from coderllm_jax.retrieval.relevance import pairs_from_examples
from coderllm_jax.retrieval.search import Searcher, SearchSettings
from coderllm_jax.retrieval.store import MANIFEST, open_index
from coderllm_jax.retrieval.stored_chunks import hash_chunks


def make_embedder(section: RetrievalSection) -> SentenceEmbedder:
    """The embedding model that the options name; nothing heavy is loaded yet."""
    model = find_model(
        section.embedding_model,
        query_prefix=section.query_prefix,
        document_prefix=section.document_prefix,
    )
    return SentenceEmbedder(
        model,
        device=section.device,
        batch_size=section.batch_size,
        trust_code=section.trust_code,
    )


def open_searcher(
    section: RetrievalSection,
    chunks: Sequence[Chunk],
    *,
    examples: Iterable[Example] = (),
    embedder: Embedder | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Searcher:
    """The searcher over exactly these chunks, whose index is built first where options say so.

    `examples` are training rows about the same symbols: relevance is calibrated on them when the
    index is built. Raises DataError where the index is another model's or of other chunks, or
    damaged, and may not be built again.
    """
    embedder = embedder or make_embedder(section)
    folder = Path(section.index_dir)
    is_missing = section.build == "missing" and not (folder / MANIFEST).exists()
    if is_missing or section.build == "update":
        build_index(
            folder,
            chunks,
            embedder,
            pairs=pairs_from_examples(examples, chunks),
            exact_below=section.exact_below,
            missed_fraction=section.missed_fraction,
            on_progress=on_progress,
        )
    index = open_index(folder)
    index.check_chunks(hash_chunks(chunks))
    settings = SearchSettings(
        mode=section.mode,
        depth=section.depth,
        rrf_k=section.rrf_k,
        dense_weight=section.dense_weight,
        lexical_weight=section.lexical_weight,
        name_weight=section.name_weight,
    )
    return Searcher(index, embedder, settings)


def answer_with_passages(
    inner: Answerer,
    searcher: Searcher,
    section: RetrievalSection,
    *,
    count_tokens: TokenCounter,
    name: str = "rag",
) -> RetrievalAnswerer:
    """`inner` with passages before its questions; `count_tokens` is its tokenizer's."""
    settings = PassageSettings(
        most=section.passages,
        tokens=section.passage_tokens,
        near_duplicate=section.near_duplicate,
        best_last=section.order == "best_last",
        cite=section.prompt == "cite",
        say_nothing_found=section.when_nothing == "say",
    )
    return RetrievalAnswerer(
        inner, searcher, count_tokens=count_tokens, settings=settings, name=name
    )
