"""What a preflight found, as a table for people and as JSON for programs.

Bytes are told in GiB (2^30), as chips' memory is; rates in powers of ten. What is to spare is what
the larger of the compiled steps leaves: training's, or evaluation's, which may need more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from coderllm_jax.preflight.compiling import Compiled
from coderllm_jax.preflight.costs import Collective
from coderllm_jax.preflight.preflighting import Preflight, Winner
from coderllm_jax.preflight.roofline import Bound, mfu, tokens_per_day
from coderllm_jax.preflight.screen import Screened
from coderllm_jax.training.calibrated import is_calibrated

_GIB = 2**30
_MOST_REMEDIES = 12


def describe(found: Preflight) -> str:
    """The whole answer, as it is printed."""
    lines = [
        f"{found.config.model_name} on {found.slice.name} (Cloud's {found.slice.cloud_name}): "
        f"{found.slice.num_chips} chips of {_gib(found.slice.chip.memory_bytes)}",
        "",
        *_screen_lines(found),
    ]
    for winner in found.winners:
        lines += ["", *_winner_lines(winner, found)]
    lines += ["", _verdict(found)]
    if is_calibrated(found.config):
        lines.append(
            "not looked at: lora.base_rounding=calibrated, for which one chip holds a layer's "
            "floats and their inputs' products before the first step"
        )
    if not found.fits:
        lines += _remedy_lines(found)
    return "\n".join(lines)


def _verdict(found: Preflight) -> str:
    fitting = [winner for winner in found.winners if winner.fits]
    if fitting:
        largest = fitting[0].largest
        spare = found.slice.chip.memory_bytes - largest.needed_bytes
        step = f" in the {largest.step} step" if largest.step != "train" else ""
        return (
            f"FITS, with {_gib(spare)} of every chip to spare{step}: "
            f"{options_of(fitting[0].screened)}"
        )
    if found.winners:
        worst = found.nearest.largest
        more = worst.needed_bytes - (worst.limit_bytes or found.slice.chip.memory_bytes)
        plan = f", {found.nearest.screened.plan.words}" if len(found.winners) > 1 else ""
        return (
            f"DOES NOT FIT: the {worst.step} step needs {_gib(worst.needed_bytes)} of every chip, "
            f"{_gib(more)} too much{plan}"
        )
    nearest = found.screened[0]
    if nearest.fits:
        return (
            f"FITS by the screen, with {_gib(nearest.spare_bytes)} to spare; nothing was compiled: "
            f"{options_of(nearest)}"
        )
    return f"DOES NOT FIT by the screen: {_gib(-nearest.spare_bytes)} of every chip are missing"


def options_of(screened: Screened) -> str:
    """A plan as what to write on the command line."""
    config, mesh = screened.plan.config, screened.plan.mesh
    return (
        f"--config.mesh.data={mesh.data} --config.mesh.fsdp={mesh.fsdp} "
        f"--config.mesh.tensor={mesh.tensor} --config.batch_size={config.batch_size}"
    )


# --- the screen ----------------------------------------------------------------------------------


def _screen_lines(found: Preflight) -> Iterator[str]:
    every = found.screened
    fitting = sum(each.fits for each in every)
    yield f"screen: {len(every)} plans, of which {fitting} fit; by arithmetic, bounds at best"
    yield (f"  {'mesh':<28}{'batch':>6}{'memory':>11}{'step':>10}{'binds':>9}{'positions/s':>13}")
    for each in every[:5]:
        plan, bound = each.plan, each.estimate.bound
        yield (
            f"  {plan.mesh.words:<28}{plan.config.batch_size:>6}"
            f"{_gib(each.estimate.memory_bytes):>11}{_seconds(bound.at_best_s):>10}"
            f"{bound.binds:>9}{plan.step_positions / bound.at_best_s:>13,.0f}"
            f"{'' if each.fits else '  too large'}"
        )


# --- what was compiled ---------------------------------------------------------------------------


def _winner_lines(winner: Winner, found: Preflight) -> Iterator[str]:
    plan, train, reckoned = winner.screened.plan, winner.train, winner.screened.estimate
    described = train.description
    yield (
        f"compiled: {plan.words}, rows of {plan.length}; {described['precision']}, attention "
        f"{described['attention']}, remat {described['remat']}, base {described['base']}"
    )
    yield (
        f"  {train.compile_s:.0f} s and {train.host_peak_bytes / 1e9:.1f} GB of this machine"
        f" ({train.lower_s:.0f} s to trace)"
    )
    yield from _memory_lines(train, winner)
    bound = winner.bound
    if train.costs is None or bound is None:
        return
    costs = train.costs
    yield "  one chip's work              compiled     screen   XLA, loops once"
    yield (
        f"    FLOPs                    {_power(costs.flops + winner.kernel_flops):>12}"
        f"{_power(reckoned.flops):>11}{_power(train.xla.get('flops', 0.0)):>18}"
    )
    if winner.kernel_flops:
        yield f"      of attention's kernels {_power(winner.kernel_flops):>12}   by formula"
    yield (
        f"    bytes of memory moved    {_power(costs.bytes):>12}{_power(reckoned.bytes):>11}"
        f"{_power(train.xla.get('bytes accessed', 0.0)):>18}"
    )
    yield (
        f"    bytes over links         {_power(_linked(costs.collectives)):>12}"
        f"{_power(_linked(reckoned.collectives)):>11}"
    )
    for each in costs.collectives:
        yield (
            f"      {each.kind:<19}{'+'.join(each.axes):<18}{each.times:>9,.0f} times"
            f"{_power(each.bytes):>12} bytes"
        )
    yield from _bound_lines(bound, winner, found)


def _memory_lines(train: Compiled, winner: Winner) -> Iterator[str]:
    limit = winner.screened.plan.slice.chip.memory_bytes
    reckoned = winner.screened.estimate
    held = train.held
    yield (
        f"  memory of a chip: {_gib(train.needed_bytes)} of {_gib(limit)} "
        f"(screen: {_gib(reckoned.memory_bytes)})"
    )
    parts = [
        ("frozen weights", held["frozen"]),
        ("adapters" if held["frozen"] else "weights", held["trained"]),
        ("optimizer state", held["optimizer"]),
        ("batch", held["batch"]),
    ]
    if train.memory is not None:
        memory = train.memory
        parts += [
            ("arguments, all of the above", memory.arguments),
            ("outputs beyond them", memory.outputs),
            ("temporaries", memory.temporaries),
            ("program", memory.code),
        ]
    for name, size in parts:
        yield f"    {name:<30}{_gib(size):>12}"
    if winner.evaluation is not None:
        yield f"    (evaluation step, in all)     {_gib(winner.evaluation.needed_bytes):>12}"


def _bound_lines(bound: Bound, winner: Winner, found: Preflight) -> Iterator[str]:
    plan = winner.screened.plan
    owed = winner.screened.estimate.model_flops
    yield "  a bound on the step, no forecast:"
    yield (
        f"    compute {_seconds(bound.compute_s)}, memory {_seconds(bound.memory_s)}, links "
        f"{_seconds(bound.links_s)}: {bound.binds} binds"
    )
    for words, step_s in (("at best", bound.at_best_s), ("in turn", bound.in_turn_s)):
        part = mfu(plan.slice, model_flops=owed, step_s=step_s)
        daily = tokens_per_day(plan.step_positions, step_s)
        yield (
            f"    {words}: {_seconds(step_s)} a step, MFU {part:.0%}, {daily / 1e9:,.2f} billion "
            f"positions a day{_price_words(found, daily)}"
        )


def _price_words(found: Preflight, daily: float) -> str:
    prices = found.config.prices
    if not prices.tpu_chip_hour:
        return ""
    day = prices.tpu_chip_hour * 24 * found.slice.num_chips
    source = f" ({prices.source})" if prices.source else ""
    return (
        f", {day / daily * 1e6:.4f} {prices.currency} a million at {prices.tpu_chip_hour:g} a "
        f"chip-hour{source}"
    )


def _remedy_lines(found: Preflight) -> Iterator[str]:
    if not found.remedies:
        yield "nothing that the screen knows would make it fit: name a smaller model"
        return
    yield "what would make it fit, by the screen:"
    for remedy in found.remedies[:_MOST_REMEDIES]:
        memory = remedy.screened.estimate.memory_bytes
        limit = remedy.screened.plan.slice.chip.memory_bytes
        words = remedy.words if remedy.words.startswith("--") else f"--config.{remedy.words}"
        words = words.replace(" and ", " --config.")
        yield f"  {words:<64} {_gib(memory)} of {_gib(limit)}"


# --- as JSON -------------------------------------------------------------------------------------


def to_json(found: Preflight) -> dict[str, Any]:
    """The same figures; bytes and seconds as they are."""
    prices = found.config.prices
    return {
        "model": found.config.model_name,
        "architecture": dataclasses.asdict(found.architecture),
        "topology": found.slice.name,
        "cloud_name": found.slice.cloud_name,
        "num_chips": found.slice.num_chips,
        "chip_memory_bytes": found.slice.chip.memory_bytes,
        "fits": found.fits,
        "supervised_fraction": found.config.screen.supervised_fraction,
        "price_per_chip_hour": prices.tpu_chip_hour or None,
        "currency": prices.currency,
        "price_source": prices.source,
        "screened": [_screened_json(each) for each in found.screened],
        "compiled": [_winner_json(each) for each in found.winners],
        "remedies": [
            {"change": each.words, **_screened_json(each.screened)} for each in found.remedies
        ],
    }


def _screened_json(each: Screened) -> dict[str, Any]:
    reckoned, plan = each.estimate, each.plan
    return {
        "topology": plan.slice.name,
        "mesh": plan.mesh._asdict(),
        "batch_size": plan.config.batch_size,
        "sequence_length": plan.length,
        "options": options_of(each),
        "fits": each.fits,
        "memory_bytes": reckoned.memory_bytes,
        "held_bytes": reckoned.held._asdict(),
        "kept_bytes": reckoned.kept,
        "working_bytes": reckoned.working,
        "gathered_bytes": reckoned.gathered,
        "gradient_bytes": reckoned.gradients,
        "flops": reckoned.flops,
        "bytes": reckoned.bytes,
        "link_bytes": _linked(reckoned.collectives),
        "model_flops": reckoned.model_flops,
        "bound": _bound_json(reckoned.bound, each),
    }


def _bound_json(bound: Bound, each: Screened) -> dict[str, Any]:
    plan = each.plan
    found: dict[str, Any] = {**bound._asdict(), "binds": bound.binds}
    for name, step_s in (("at_best", bound.at_best_s), ("in_turn", bound.in_turn_s)):
        found[name] = {
            "step_s": step_s,
            "mfu": mfu(plan.slice, model_flops=each.estimate.model_flops, step_s=step_s),
            "positions_per_day": tokens_per_day(plan.step_positions, step_s),
        }
    return found


def _winner_json(winner: Winner) -> dict[str, Any]:
    found = {
        "plan": _screened_json(winner.screened),
        "train": _compiled_json(winner.train),
        "kernel_flops": winner.kernel_flops,
    }
    if winner.bound is not None:
        found["bound"] = _bound_json(winner.bound, winner.screened)
    if winner.evaluation is not None:
        found["evaluation"] = _compiled_json(winner.evaluation)
    return found


def _compiled_json(compiled: Compiled) -> dict[str, Any]:
    found = compiled._asdict()
    found["memory"] = None if compiled.memory is None else compiled.memory._asdict()
    if compiled.costs is not None:
        costs = compiled.costs._asdict()
        costs["collectives"] = [each._asdict() for each in compiled.costs.collectives]
        found["costs"] = costs
    return {**found, "fits": compiled.fits}


# --- words ---------------------------------------------------------------------------------------


def _linked(collectives: Sequence[Collective]) -> float:
    return sum(each.bytes for each in collectives)


def _gib(size: float) -> str:
    if abs(size) < _GIB / 100:
        return f"{size / 2**20:.1f} MiB"
    return f"{size / _GIB:.2f} GiB"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def _power(value: float) -> str:
    return f"{value:.3g}"
