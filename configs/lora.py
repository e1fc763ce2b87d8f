"""LoRA on Gemma 3 270M: the default run, `make train`."""

from ml_collections import ConfigDict

from coderllm_jax import TrainingConfig


def get_config() -> ConfigDict:
    """The card's configuration."""
    return TrainingConfig.create_default()
