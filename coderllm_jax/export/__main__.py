"""`python -m coderllm_jax.export`: a trained model in, proven artifacts out, a line for each.

Exit codes: 0 all are in place, 1 a mistake or an artifact that is not the model (and is deleted),
42 interrupted by a signal: the same command starts it again.
"""

from __future__ import annotations

from coderllm_jax import entry
from coderllm_jax.config.export import ExportConfig


def main(config: ExportConfig) -> None:
    """Exports, and says where everything lies and how near it is to what was trained."""
    from coderllm_jax.training.devices import prepare_process

    prepare_process(platform="cpu", cache_dir=config.model.cache_dir)
    from coderllm_jax.export.exporting import export_model
    from coderllm_jax.export.summary import describe_export

    print(describe_export(export_model(config, note=entry.Notes())))


if __name__ == "__main__":
    entry.run(main, ExportConfig, "configs/export.py", computes=True)
