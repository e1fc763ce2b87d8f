"""The default comparison: what was trained, retrieval, the base model, and both together.

Run      python -m coderllm_jax.compare --config=configs/comparison.py
Model    runs/lora, and the model it was trained on
Data     data/evaluation and data/chunks (prepare wrote them); the index is built in runs/index
Takes    under 20 minutes on 2 cores; what was answered is kept, and a second time takes seconds
Expect   runs/comparison/report/index.html, the same figures on the terminal, and next.py, the
         training card of the next iteration
"""

import ml_collections

from coderllm_jax.config import ComparisonConfig


def get_config() -> ml_collections.ConfigDict:
    """The card's configuration."""
    return ComparisonConfig.create_default()
