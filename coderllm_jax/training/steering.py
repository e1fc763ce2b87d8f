"""What a run is told while it goes: signals and live.yaml on one side, the loop on the other.

    SIGTERM, SIGINT ─┐            word(step)            hear(agreed)
    live.yaml ───────┴─► Steering ───────────► the step ─────────────► Steering ─► periods, stop

Only process 0 reads live.yaml; every process hears of its own signals. What counts is what comes
back from the step, see `control`.
"""

from __future__ import annotations

from typing import Literal

import jax

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.training.control import Control
from coderllm_jax.training.live import LiveFile
from coderllm_jax.training.record import RunRecord
from coderllm_jax.training.signals import StopSignals

# What `Control.stop` says; the larger one wins where two processes say different things.
_INTERRUPT, _STOP = 1.0, 2.0


class Steering:
    """This process's word on every step, and the periods that all processes agreed on."""

    def __init__(
        self,
        config: TrainingConfig,
        record: RunRecord,
        *,
        signals: StopSignals | None = None,
        live: LiveFile | None = None,
    ) -> None:
        """`live` None: nothing is read (tests, and all processes but the first)."""
        self._config, self._record = config, record
        self._signals, self._live = signals, live
        self._obey(self._control(stop=0.0))

    def word(self, step: int) -> Control:
        """What this process has to say about `step`, which is about to be dispatched."""
        stop = 0.0
        if self._live is not None:
            self._record.live = self._live.values(step)
            stop = _STOP * self._live.wants_stop
        if self._signals is not None and self._signals.received:
            stop = max(stop, _INTERRUPT)
        return self._control(stop=stop)

    def hear(self, agreed: Control) -> Literal["", "interrupted", "stopped"]:
        """Takes over what all agreed on in a step; returns the status it ends the run with."""
        self._obey(agreed)
        if agreed.stop >= _STOP:
            return "stopped"
        return "interrupted" if agreed.stop >= _INTERRUPT else ""

    def must_hurry(self) -> bool:
        """Whether a signal has come that this process may obey at once, because it is alone."""
        alone = jax.process_count() == 1
        return alone and self._signals is not None and bool(self._signals.received)

    def _control(self, *, stop: float) -> Control:
        config, live = self._config, self._record.live
        return Control(
            stop,
            float(live.get("learning_rate_scale", 1.0)),
            float(live.get("evaluation.every_steps", config.evaluation.every_steps)),
            float(live.get("checkpoint.every_steps", config.checkpoint.every_steps)),
            float(live.get("logging.every_steps", config.logging.every_steps)),
        )

    def _obey(self, agreed: Control) -> None:
        self.evaluation_every_steps = int(agreed.evaluation_every_steps)
        self.checkpoint_every_steps = int(agreed.checkpoint_every_steps)
        self.logging_every_steps = int(agreed.logging_every_steps)
