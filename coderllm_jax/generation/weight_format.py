"""In which formats weights decode fastest on this machine, by measurement, for a number of slots.

    precision   float32 or mixed     both are the model's own values; answers differ by rounding
    head        whole or screened    the same token (see `screen`), but for ties within rounding

Which format wins depends on instructions, memory and the number of rows. A choice is part of the
setting under which answers are equal, so a machine makes it once: it is kept in the cache folder,
with the seconds it rests on.

    decode_formats.json   {"processor 3f…, 2 cores, jax 0.10.2: precision of 16 rows":
                              {"fastest": "mixed", "seconds": {"float32": 0.031, "mixed": …}}, …}

int8 weights throughout were left out: they change answers, and what they save is mostly the head,
of which a screen reads int8 already.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from coderllm_jax.generation.network import DecodeWeights, head_logits
from coderllm_jax.generation.sampling import likeliest
from coderllm_jax.generation.screen import Screen, make_screen, screened_likeliest
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.forward import ForwardOptions
from coderllm_jax.model.precision import PRECISIONS, Precision, contract, resolve_precision

_FILE = "decode_formats.json"
_FORMATS = ("float32", "mixed", "whole", "screened")
_ROUNDS = 5
_CLEARLY = 1.2  # times as fast
# A kernel that is large enough to come from memory, as a model's do: 84 or 168 MB.
_PROBE_SHAPE = (65_536, 640)
# Smaller heads stay in the cores' caches, where a second format gains nothing.
_SMALLEST_SCREENED = 1 << 25
# What this process knows, for engines without a cache folder.
_fastest_here: dict[str, str] = {}


def decode_rows(num_slots: int, precision: Precision) -> int:
    """Rows to compute for so many slots.

    XLA's CPU backend multiplies a single row in bfloat16 at a tenth of the rate of two.
    """
    is_slow = precision.operands == jnp.bfloat16 and jax.default_backend() == "cpu"
    return max(num_slots, 2) if is_slow else num_slots


def choose_precision(name: str, *, num_slots: int, cache_dir: str | Path | None) -> Precision:
    """The precision that `name` asks for; `auto` on a CPU with bfloat16 is measured.

    `mixed` rounds operands to bfloat16, as training on such a CPU does; float32 takes its place
    where it is clearly faster. Elsewhere `auto` is what `resolve_precision` says.
    """
    resolved = resolve_precision(name, jax.default_backend())
    if name != "auto" or resolved.name != "mixed":
        return resolved

    def candidates() -> dict[str, Callable[[], Any]]:
        return {each: _product(PRECISIONS[each], num_slots) for each in ("mixed", "float32")}

    return PRECISIONS[_fastest(f"precision of {num_slots} rows", candidates, cache_dir)]


def choose_screen(
    weights: DecodeWeights,
    *,
    num_rows: int,
    architecture: Architecture,
    options: ForwardOptions,
    cache_dir: str | Path | None,
) -> Screen | None:
    """A screen of the head where it finds greedy tokens faster than all logits do, else None."""
    vocabulary, width = weights.embedding.shape
    if jax.default_backend() != "cpu" or vocabulary * width < _SMALLEST_SCREENED:
        return None
    screens: list[Screen] = []  # made once, and only where it is needed

    def screen() -> Screen:
        if not screens:
            screens.append(make_screen(weights.embedding, precision=options.precision))
        return screens[0]

    def candidates() -> dict[str, Callable[[], Any]]:
        # Hidden states that point at a token, as a model does: others leave too many candidates, so
        # do the thousands of unused tokens at a vocabulary's beginning, which are all alike.
        rows = weights.embedding[vocabulary // 7 :: vocabulary // (2 * num_rows)]
        hidden_SD = rows[:num_rows].astype(jnp.float32)
        is_active_S = jnp.ones(num_rows, bool)
        arguments = {"architecture": architecture, "options": options}
        return {
            "whole": functools.partial(_whole_likeliest, weights, hidden_SD, **arguments),
            "screened": functools.partial(
                _screened_likeliest, weights, screen(), hidden_SD, is_active_S, **arguments
            ),
        }

    what = f"head of {num_rows} rows, {vocabulary} x {width} in {options.precision.name}"
    return screen() if _fastest(what, candidates, cache_dir) == "screened" else None


@functools.partial(jax.jit, static_argnames=("architecture", "options"))
def _whole_likeliest(
    weights: DecodeWeights,
    hidden_SD: jax.Array,
    *,
    architecture: Architecture,
    options: ForwardOptions,
) -> jax.Array:
    return likeliest(head_logits(weights, hidden_SD, architecture=architecture, options=options))


_screened_likeliest = jax.jit(screened_likeliest, static_argnames=("architecture", "options"))


def _product(precision: Precision, num_slots: int) -> Callable[[], Any]:
    """One large product in that precision, of as many rows as decoding would compute."""
    x_SD = jnp.ones((decode_rows(num_slots, precision), _PROBE_SHAPE[1]), jnp.float32)
    kernel_VD = jnp.ones(_PROBE_SHAPE, precision.weights)
    product = jax.jit(contract, static_argnums=(0, 3))
    return functools.partial(product, "sd,vd->sv", x_SD, kernel_VD, precision)


# --- measuring, once ----------------------------------------------------------------------------


def _fastest(
    what: str,
    candidates: Callable[[], Mapping[str, Callable[[], Any]]],
    cache_dir: str | Path | None,
) -> str:
    """The candidate that ran fastest when this machine was first asked; in doubt, the first one."""
    key = f"{_machine()}: {what}"
    if key in _fastest_here:
        return _fastest_here[key]
    path = Path(cache_dir).expanduser() / _FILE if cache_dir is not None else None
    kept = _read(path) if path else {}
    if key not in kept:
        seconds = _time(candidates())
        kept[key] = {"fastest": _winner(seconds), "seconds": seconds}
        if path:
            _write(path, kept)
    _fastest_here[key] = kept[key]["fastest"]
    return _fastest_here[key]


def _winner(seconds: Mapping[str, float]) -> str:
    """The fastest where it is so beyond doubt: a choice must not hang on what else was running."""
    usual = next(iter(seconds))
    fastest = min(seconds, key=lambda name: seconds[name])
    return fastest if seconds[fastest] * _CLEARLY < seconds[usual] else usual


def _time(calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """The shortest of a few runs of each, in turn, so that what disturbs one disturbs all."""
    seconds = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        jax.block_until_ready(call())  # compiles
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


@functools.cache
def _machine() -> str:
    """What a choice holds for: processor, cores, jax."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    told = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]
    return f"processor {digest}, {cores} cores, jax {jax.__version__}"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """What earlier processes measured; a file that is missing or damaged holds nothing."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {key: entry for key, entry in kept.items() if entry["fastest"] in _FORMATS}
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return {}


def _write(path: Path, kept: Mapping[str, Any]) -> None:
    """Keeps the choices where that is possible; where it is not, the next process measures."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=".formats-", delete=False, encoding="utf-8"
        ) as file:
            file.write(json.dumps(kept, indent=1) + "\n")
        Path(file.name).replace(path)
