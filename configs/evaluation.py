"""The default evaluation: every suite over the default run, `make train`'s.

Run      python -m coderllm_jax.evaluate --config=configs/evaluation.py
Model    runs/lora; --config.model_path=gemma3_270m evaluates the model before training
Data     data/evaluation (prepare wrote it), data/questions.jsonl, HumanEval from its package
Takes    under 20 minutes on 2 cores; a second time, under one
Expect   runs/lora/evaluation/report/index.html, and the same figures on the terminal
"""

import ml_collections

from coderllm_jax.config import EvaluationConfig


def get_config() -> ml_collections.ConfigDict:
    """The card's configuration."""
    return EvaluationConfig.create_default()
