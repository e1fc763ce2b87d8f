"""The full domain: the whole stack that this project stands on, and Python's standard library.

Run     python -m coderllm_jax.prepare --config=configs/data_full.py
Takes   half a minute of one core; nothing is imported or executed, everything comes from what is
        installed, so the same lock gives the same bytes
Gives   see data/manifest.json: over 10,000 training rows, 6,000 chunks and 400 evaluation items
"""

from pathlib import Path

import ml_collections

from coderllm_jax.config import DataConfig

QUESTIONS = Path(__file__).resolve().parents[1] / "data" / "questions.jsonl"


def get_config() -> ml_collections.ConfigDict:
    """The card's configuration."""
    config = DataConfig.create_default()
    config.packages = (
        "absl-py",
        "clu",
        "flax",
        "grain",
        "jax",
        "keras",
        "keras-hub",
        "ml-collections",
        "numpy",
        "optax",
        "orbax-checkpoint",
    )
    config.standard_library = True
    # Not for users of the libraries: compiler internals, kernels' insides, generated tables.
    config.exclude = (
        "encodings",
        "jax.experimental.mosaic",
        "jax.experimental.pallas.ops",
        "jax.extend",
        "jax.interpreters",
        "jax.lib",
        "jax.tools",
        "nntplib",
        "numpy.distutils",
        "numpy.f2py",
        "numpy.testing",
        "orbax.checkpoint.experimental.emergency",
        "orbax.checkpoint.experimental.tiering_service",
        "pydoc",
        "sre_compile",
        "turtle",
    )
    config.evaluation.unseen_fraction = 0.1
    config.evaluation.max_items = 400
    config.evaluation.questions = str(QUESTIONS)
    return config
