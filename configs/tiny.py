"""A random model of 60,000 weights: every part of a run in seconds, and nothing learnt of worth.

Run      python -m coderllm_jax.train --config=configs/tiny.py
Data     configs/data.py, prepared first where there is none; bytes are its tokens
Takes    half a minute, nearly all of it loading and compiling
Expect   evaluation loss from 6.7 to about 5.9 (which bytes there are, no language)
"""

import ml_collections

from coderllm_jax.config import TrainingConfig


def get_config() -> ml_collections.ConfigDict:
    """The card's configuration."""
    config = TrainingConfig.create_default()
    config.model_name = "tiny"
    config.workdir = "runs/tiny"
    config.steps = 20
    config.learning_rate = 2e-2
    config.data.sequence_length = 512
    config.data.on_long_example = "drop"
    config.evaluation.every_steps = 5
    config.evaluation.max_items = 16
    config.evaluation.sample_tokens = 16
    config.checkpoint.every_steps = 5
    return config
