"""Fine-tune, evaluate, compare and watch Gemma with KerasHub and JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coderllm_jax.compare import ComparisonResult, run_comparison
    from coderllm_jax.config.comparison import ComparisonConfig
    from coderllm_jax.config.evaluation import EvaluationConfig
    from coderllm_jax.config.export import ExportConfig
    from coderllm_jax.config.serving import ServingConfig
    from coderllm_jax.config.training import TrainingConfig
    from coderllm_jax.evaluate import EvaluationResult, evaluate_model
    from coderllm_jax.export.exporting import ExportResult, export_model
    from coderllm_jax.train import TrainingResult, train_model

__version__ = "0.1.0"
__all__ = [
    "ComparisonConfig",
    "ComparisonResult",
    "EvaluationConfig",
    "EvaluationResult",
    "ExportConfig",
    "ExportResult",
    "ServingConfig",
    "TrainingConfig",
    "TrainingResult",
    "__version__",
    "evaluate_model",
    "export_model",
    "run_comparison",
    "train_model",
]

# Loaded when asked for: `import coderllm_jax` must cost nothing to a command that prints its help.
_HOME = {
    "ComparisonConfig": "coderllm_jax.config.comparison",
    "ComparisonResult": "coderllm_jax.compare",
    "EvaluationConfig": "coderllm_jax.config.evaluation",
    "EvaluationResult": "coderllm_jax.evaluate",
    "ExportConfig": "coderllm_jax.config.export",
    "ExportResult": "coderllm_jax.export.exporting",
    "ServingConfig": "coderllm_jax.config.serving",
    "TrainingConfig": "coderllm_jax.config.training",
    "TrainingResult": "coderllm_jax.train",
    "evaluate_model": "coderllm_jax.evaluate",
    "export_model": "coderllm_jax.export.exporting",
    "run_comparison": "coderllm_jax.compare",
    "train_model": "coderllm_jax.train",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'coderllm_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
