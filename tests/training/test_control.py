"""One word a process and a step: what all agreed on comes back with the step's metrics."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import AxisType

from coderllm_jax.model.sharding import MESH_AXES
from coderllm_jax.training.control import _SILENT, Control, agree, put_control

MESH = jax.make_mesh((1, 1, 1), MESH_AXES, (AxisType.Auto,) * 3)


def agreed(*words: Control) -> Control:
    return Control(*map(float, jax.jit(agree)(np.asarray(words, np.float32))))


def test_what_one_process_says_comes_back() -> None:
    said = Control(2.0, 0.5, 7.0, 2**20, 1.0)
    with jax.transfer_guard("disallow"):  # as in the loop
        words = put_control(said, MESH)
    assert words.shape == (MESH.size, len(said))
    assert Control(*map(float, jax.jit(agree)(words))) == said


def test_anybody_may_stop_and_only_the_first_steers() -> None:
    silent = (_SILENT,) * (len(Control()) - 1)
    first, second = Control(0.0, 0.0, 0.0, 0.0, 1.0), Control(1.0, *silent)
    assert agreed(first, second) == Control(1.0, 0.0, 0.0, 0.0, 1.0)
    assert agreed(second, first) == agreed(first, second)


def test_all_but_the_first_process_put_silence(monkeypatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    words = np.asarray(put_control(Control(1.0, 0.5, 7.0, 8.0, 9.0), MESH))
    assert words[0].tolist() == [1.0, *(_SILENT,) * 4]
