"""Every field, default and range of the project; nothing here touches a device or a file."""

from coderllm_jax.config.comparison import ComparisonConfig
from coderllm_jax.config.data import DataConfig
from coderllm_jax.config.evaluation import EvaluationConfig
from coderllm_jax.config.export import ExportConfig
from coderllm_jax.config.monitoring import MonitoringConfig
from coderllm_jax.config.schema import Config, describe
from coderllm_jax.config.serving import ServingConfig
from coderllm_jax.config.training import TrainingConfig

__all__ = [
    "ComparisonConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "ExportConfig",
    "MonitoringConfig",
    "ServingConfig",
    "TrainingConfig",
    "describe",
]
