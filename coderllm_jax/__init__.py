"""Fine-tune, evaluate, compare and watch Gemma with KerasHub and JAX."""

__version__ = "0.1.0"
