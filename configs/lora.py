"""LoRA on Gemma 3 270M: the default run, `make train`."""

from coderllm_jax import TrainingConfig


def get_config():
    return TrainingConfig.create_default()
