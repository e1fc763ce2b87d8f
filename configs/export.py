"""The default export: the default run as a Hugging Face folder and a GGUF, both proven.

Run      python -m coderllm_jax.export --config=configs/export.py
Model    runs/lora; --config.model_path=gemma3_270m exports the model before training
Needs    torch, transformers and llama-cpp-python, to prove what was written
Takes    about two minutes on 2 cores
Expect   runs/lora/export/huggingface and runs/lora/export/gguf, each with its model card
"""

import ml_collections

from coderllm_jax.config import ExportConfig


def get_config() -> ml_collections.ConfigDict:
    """The card's configuration."""
    return ExportConfig.create_default()
