"""The default domain, for a quick start: optax, small enough that two epochs of it fit a short run.

Run     python -m coderllm_jax.prepare --config=configs/data.py
Takes   a few seconds
Gives   short rows (about 40 tokens with their chat turns), so that 60 to 110 steps of 1,024 tokens
        show every trained symbol at least twice; chunks that say exactly what the rows ask for
Larger  configs/data_full.py, the whole stack and the standard library
"""

from pathlib import Path

import ml_collections

from coderllm_jax.config import DataConfig

QUESTIONS = Path(__file__).resolve().parents[1] / "data" / "questions.jsonl"


def get_config() -> ml_collections.ConfigDict:
    """The card's configuration."""
    config = DataConfig.create_default()
    config.packages = ("optax",)
    config.rows.max_prose_tokens = 40
    config.rows.max_code_tokens = 64
    config.rows.max_row_tokens = 112
    config.rows.phrasings = 1
    config.rows.max_statements_per_symbol = 4
    config.rows.max_rows = 900
    config.chunks.scope = "trained"
    config.evaluation.unseen_fraction = 0.2
    config.evaluation.max_items = 120
    config.evaluation.questions = str(QUESTIONS)
    return config
