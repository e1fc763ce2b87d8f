"""The default server: every model whose parts are there, on this machine only.

Run      python -m coderllm_jax.serve --config=configs/serving.py
Model    runs/lora, and the model it was trained on
Data     data/chunks (prepare wrote them); the index is built in runs/index_everything
Takes    about a minute until it is ready
Expect   serve: http://127.0.0.1:8000/, a page to try it there, and OpenAI's interface under /v1

    openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none").chat.completions.create(
        model="trained", messages=[{"role": "user", "content": "What is optax.lion?"}]
    )
"""

import ml_collections

from coderllm_jax.config import ServingConfig


def get_config() -> ml_collections.ConfigDict:
    """The card's configuration."""
    config = ServingConfig.create_default()
    # Where a comparison keeps the index of all chunks, so that it is built once for both.
    config.retrieval.index_dir = "runs/index_everything"
    config.retrieval.build = "update"
    return config
