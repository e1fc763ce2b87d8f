"""The tiny random model: every part of a run in seconds, on nothing worth keeping."""

from ml_collections import ConfigDict

from coderllm_jax import TrainingConfig


def get_config() -> ConfigDict:
    """The card's configuration."""
    config = TrainingConfig.create_default()
    config.model_name = "tiny"
    config.workdir = "runs/tiny"
    config.steps = 10
    config.learning_rate = 1e-2
    config.data.on_long_example = "drop"
    config.evaluation.every_steps = 5
    config.evaluation.max_items = 8
    config.evaluation.sample_tokens = 16
    config.checkpoint.every_steps = 5
    return config
