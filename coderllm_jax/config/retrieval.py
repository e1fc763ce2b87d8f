"""Every option of retrieval: a section of the configurations that look things up."""

from __future__ import annotations

import dataclasses

from coderllm_jax.config.schema import Section, option
from coderllm_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class RetrievalSection(Section):
    index_dir: str = option("runs/index", "The index's folder.")
    build: str = option(
        "missing",
        "When the index is built: where there is none; also where it is of another model or other "
        "chunks, or damaged (only what changed is embedded again); never.",
        choices=("missing", "update", "never"),
    )
    embedding_model: str = option(
        "all-MiniLM-L6-v2",
        "A sentence-transformers model: all-MiniLM-L6-v2 (a package, no hub), a folder, or "
        "org/name from the hub.",
    )
    query_prefix: str = option(
        "auto", "What stands before a query that is embedded; auto: what the model is known for."
    )
    document_prefix: str = option(
        "auto", "What stands before a passage that is embedded; auto: what the model is known for."
    )
    trust_code: bool = option(False, "Whether code that comes with an embedding model is run.")
    device: str = option("cpu", "torch's name of the device that embeds.")
    batch_size: int = option(
        1, "Texts embedded at once; more than 1 is for accelerators.", low=1, high=4096
    )
    exact_below: int = option(
        20_000, "Fewer vectors than this are all looked at; from here on ScaNN searches.", low=0
    )
    mode: str = option("hybrid", "What ranks passages.", choices=("hybrid", "dense", "lexical"))
    depth: int = option(50, "Passages that each ranking hands to the fusion.", low=1, high=10_000)
    rrf_k: float = option(
        10.0, "k of reciprocal-rank fusion: the larger, the less a first place is worth.", low=0
    )
    dense_weight: float = option(1.0, "The vectors' say in the fusion.", low=0)
    lexical_weight: float = option(0.5, "The words' say in the fusion.", low=0)
    name_weight: float = option(
        1.0, "The say of identifiers that the question names, such as `scale_by_adam`.", low=0
    )
    passages: int = option(4, "Most passages that a prompt holds.", low=1, high=100)
    passage_tokens: int = option(
        512, "Most tokens of a prompt that passages take, labels included.", low=16
    )
    near_duplicate: float = option(
        0.8,
        "Passages that share this part of their words with a better one are left out.",
        low=0.1,
        high=1,
    )
    order: str = option(
        "best_first", "How passages stand in the prompt.", choices=("best_first", "best_last")
    )
    prompt: str = option(
        "cite",
        "cite: told to answer from the passages and to cite them; plain: passages, then the "
        "question.",
        choices=("cite", "plain"),
    )
    when_nothing: str = option(
        "say",
        "Where no passage is relevant: say so, or ask without passages.",
        choices=("say", "ask"),
    )
    missed_fraction: float = option(
        0.05,
        "The part of right passages that the relevance threshold may turn away; 0: no threshold.",
        low=0,
        high=0.5,
    )

    def check(self) -> None:
        if self.mode == "hybrid" and not self.dense_weight * self.lexical_weight:
            raise ConfigError(
                f"retrieval.dense_weight and retrieval.lexical_weight are {self.dense_weight:g} "
                f"and {self.lexical_weight:g}; expected both above 0 in mode hybrid; set them, or "
                "retrieval.mode to dense or lexical"
            )
        if self.passages > self.depth:
            raise ConfigError(
                f"retrieval.passages is {self.passages} and retrieval.depth {self.depth}; expected "
                "no more passages than are looked at; raise depth or lower passages"
            )
