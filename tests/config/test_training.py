"""Values that could only end in NaN, or that would be ignored, are refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.errors import ConfigError


def config_with(**changes: Any) -> TrainingConfig:
    values = TrainingConfig.create_default()
    values.update_from_flattened_dict(changes)
    return TrainingConfig.from_config_dict(values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("lora.alpha", 0.0),
        ("optimizer.eps", 0.0),
        ("optimizer.b1", 1.0),
        ("optimizer.b2", 1.0),
    ],
)
def test_a_value_that_cannot_train_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is {value}; expected at (least|most)"):
        config_with(**{name: value})


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", ["learning_rate", "lora.alpha", "optimizer.clip_norm"])
def test_a_number_that_is_not_finite_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is -?(inf|nan); expected a finite number"):
        config_with(**{name: value})


def test_an_integer_too_large_for_a_float_is_refused() -> None:
    values = TrainingConfig().to_dict() | {"learning_rate": 10**400}
    with pytest.raises(ConfigError, match="learning_rate is inf; expected a finite number"):
        TrainingConfig.from_config_dict(values)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_weight_decay_is_refused_where_the_optimizer_takes_none(name: str) -> None:
    changes = {"optimizer.name": name, "optimizer.weight_decay": 0.1}
    with pytest.raises(
        ConfigError, match=rf"optimizer\.name is {name}, which takes none; set it to 0"
    ):
        config_with(**changes)
    config_with(**{"optimizer.name": name})
    config_with(**changes | {"optimizer.name": "adamw"})
