"""Every weight of Gemma 3 270M is trained, over the same rows as configs/lora.py.

Run      python -m coderllm_jax.train --config=configs/full_finetune.py
Data     configs/data.py (optax), prepared first where there is none
Size     268,098,176 trained weights in float32, with two moments each: 3.2 GB of state
Takes    an accelerator, or patience; checkpoints are 3.2 GB each, so few are kept
Expect   a lower training loss than LoRA's, and overfitting on so few rows: watch the page
"""

import ml_collections

from coderllm_jax.config import TrainingConfig


def get_config() -> ml_collections.ConfigDict:
    """The card's configuration."""
    config = TrainingConfig.create_default()
    config.workdir = "runs/full_finetune"
    config.learning_rate = 2e-5  # a fiftieth of LoRA's: every weight moves
    config.lora.enabled = False
    config.optimizer.warmup_fraction = 0.1
    config.checkpoint.keep_latest = 1
    config.checkpoint.every_steps = 0
    return config
