"""Runs `coderllm_jax.train` elsewhere: Cloud TPU VMs, GKE, Slurm, machines with ssh. See README.md.

Standard library only, so that a laptop without the environment can launch.
"""
