"""`python -m coderllm_jax.prepare`: packages, source trees and documents become training data."""

from __future__ import annotations

from coderllm_jax import entry
from coderllm_jax.config.data import DataConfig


def main(config: DataConfig) -> None:
    """Prepares what the configuration names and says what was written."""
    from coderllm_jax.data import preparation

    prepared = preparation.prepare_data(config)
    print(prepared.summary())


if __name__ == "__main__":
    entry.run(main, DataConfig, "configs/data.py")
