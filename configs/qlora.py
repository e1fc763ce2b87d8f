"""QLoRA on Gemma 3 270M: configs/lora.py with the blocks' frozen kernels in 4 bits (nf4).

Run      python -m coderllm_jax.train --config=configs/qlora.py
Data     configs/data.py (optax), prepared first where there is none
Size     kernels of 4.5 bits a weight instead of 16 or 32; the embedding stays as it is
Takes    two or three minutes more than configs/lora.py before the first step, in which kernels are
         rounded for what 64 of the rows send through them, and a little longer for every step
Expect   evaluation loss 5.27 to 2.61 (configs/lora.py: 5.25 to 2.55; kernels rounded to the nearest
         level, `--config.lora.base_rounding=nearest`: 5.49 to 2.65)
Then     evaluate, ask, serve and export put the adapter onto the same rounded kernels
"""

import ml_collections

from coderllm_jax.config import TrainingConfig


def get_config() -> ml_collections.ConfigDict:
    """The card's configuration."""
    config = TrainingConfig.create_default()
    config.workdir = "runs/qlora"
    config.lora.base = "nf4"
    config.lora.base_int8 = ("key", "value")
    config.lora.base_rounding = "calibrated"
    return config
