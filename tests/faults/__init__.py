"""Faults, made to happen to real processes of `python -m coderllm_jax.train`."""
