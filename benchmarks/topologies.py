"""Four models on TPU slices that nobody owns: `python -m benchmarks.topologies`.

    1B on v5e-8, 4B on v5e-8, 12B on v6e-8, 27B on v5p-64        (a v5p-64 has 32 chips: 2x4x4)
    27B on v5p-64 once more, its weights split over all chips, which a batch of adapters spares

For each, `python -m coderllm_jax.preflight` with configs/lora.py and rows of 2,048: the screen
chooses mesh and batch, libtpu compiles the real training and evaluation steps, and what the screen
had said is put beside what was compiled. Then a case that does not fit, by the screen alone, with
what would help. Nothing here ran on a TPU: seconds are bounds.

With --keep=FOLDER each answer is kept there, and one that is there is not asked for again.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from coderllm_jax.preflight.screen import RESERVE

_LENGTH = 2048
_GIB = 2**30
_DOES_NOT_FIT = 3


class Cell(NamedTuple):
    """A model on a slice. options: beside those that all cells share."""

    title: str
    model: str
    topology: str
    options: tuple[str, ...] = ()


CELLS = (
    Cell("1B on v5e-8", "gemma3_1b", "v5e:2x4"),
    Cell("4B on v5e-8", "gemma3_4b", "v5e:2x4"),
    Cell("12B on v6e-8", "gemma3_12b", "v6e:2x4"),
    Cell("27B on v5p-64", "gemma3_27b", "v5p:2x4x4"),
    Cell(
        "27B on v5p-64, fsdp",
        "gemma3_27b",
        "v5p:2x4x4",
        ("--config.mesh.fsdp=32", "--config.batch_size=32", "--config.compile.evaluation=False"),
    ),
)
TOO_LARGE = Cell("27B on v5e-4", "gemma3_27b", "v5e:2x2", ("--config.compile.winners=0",))


def command(cell: Cell) -> list[str]:
    """What a person would type for a cell."""
    return [
        "python",
        "-m",
        "coderllm_jax.preflight",
        "--config=configs/lora.py",
        f"--config.model_name={cell.model}",
        f"--topology={cell.topology}",
        f"--config.data.sequence_length={_LENGTH}",
        *cell.options,
    ]


def ask(cell: Cell, folder: Path) -> dict[str, Any]:
    """Runs a cell, or reads what it answered before."""
    path = folder / f"{re.sub(r'[^a-z0-9]+', '-', cell.title.lower())}.json"
    if not path.is_file():
        words = [sys.executable, *command(cell)[1:], f"--json={path}"]
        started_s = time.perf_counter()
        done = subprocess.run(words, stdout=subprocess.DEVNULL, check=False)
        if done.returncode not in (0, _DOES_NOT_FIT):
            raise SystemExit(f"{cell.title}: exit code {done.returncode}")
        found = json.loads(path.read_text())
        found["wall_s"] = time.perf_counter() - started_s
        path.write_text(json.dumps(found, indent=1) + "\n")
    return json.loads(path.read_text())


# --- telling -------------------------------------------------------------------------------------


def fit_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A cell a line: whether it fits, and where a chip's memory goes, in GiB."""
    lines = [
        "| | chips | mesh (data x fsdp x tensor) | batch | fits | needs | of | screen said | "
        "frozen | adapters, moments | temporaries | evaluation |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for title, answer in found.items():
        each = _chosen(answer)
        plan, train = each["plan"], each["train"]
        held, memory = train["held"], train["memory"] or {}
        small = (held["trained"] + held["optimizer"]) / 2**20
        lines.append(
            f"| {title} | {answer['num_chips']} | {_mesh(plan)} | {plan['batch_size']} | "
            f"{'yes' if answer['fits'] else 'no'} | {_gib(train['needed_bytes'])} | "
            f"{_gib(answer['chip_memory_bytes'])} | "
            f"{_gib(plan['memory_bytes'])} ({_error(plan['memory_bytes'], train['needed_bytes'])}) "
            f"| {_gib(held['frozen'])} | {small:.1f} MiB | {_gib(memory.get('temporaries', 0))} | "
            f"{_gib(each['evaluation']['needed_bytes']) if 'evaluation' in each else ''} |"
        )
    return "\n".join(lines)


def work_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A cell a line: one chip's work in one step as compiled, with the screen's error."""
    lines = [
        "| | FLOPs | of kernels, by formula | screen | XLA, loops once | bytes moved | screen | "
        "XLA, loops once | bytes over links | screen |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for title, answer in found.items():
        each = _chosen(answer)
        plan, train = each["plan"], each["train"]
        if train["costs"] is None:
            continue
        costs, xla = train["costs"], train["xla"]
        flops = costs["flops"] + each["kernel_flops"]
        links = sum(moved["bytes"] for moved in costs["collectives"])
        lines.append(
            f"| {title} | {flops:.3g} | {each['kernel_flops']:.3g} | "
            f"{_error(plan['flops'], flops)} | "
            f"{xla.get('flops', 0):.3g} | {costs['bytes']:.3g} | "
            f"{_error(plan['bytes'], costs['bytes'])} | {xla.get('bytes accessed', 0):.3g} | "
            f"{links:.3g} | {_error(plan['link_bytes'], links)} |"
        )
    return "\n".join(lines)


def bound_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A cell a line: the bound on a step, and what compiling cost this machine."""
    lines = [
        "| | compute | memory | links | binds | at best | MFU | in turn | MFU | "
        "positions a day, in turn | compile | trace | host memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for title, answer in found.items():
        each = _chosen(answer)
        train = each["train"]
        if "bound" not in each:
            continue
        bound = each["bound"]
        best, turn = bound["at_best"], bound["in_turn"]
        lines.append(
            f"| {title} | {_ms(bound['compute_s'])} | {_ms(bound['memory_s'])} | "
            f"{_ms(bound['links_s'])} | {bound['binds']} | {_ms(best['step_s'])} | "
            f"{best['mfu']:.0%} | {_ms(turn['step_s'])} | {turn['mfu']:.0%} | "
            f"{turn['positions_per_day'] / 1e9:.2f} billion | {train['compile_s']:.0f} s | "
            f"{train['lower_s']:.0f} s | {train['host_peak_bytes'] / 1e9:.1f} GB |"
        )
    return "\n".join(lines)


def collective_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What crosses links in one step, by kind and axes, into one chip."""
    lines = ["| | kind | over | times | bytes |", "|---|---|---|---|---|"]
    for title, answer in found.items():
        each = _chosen(answer)
        collectives = (each["train"]["costs"] or {"collectives": []})["collectives"]
        lines += [
            f"| {title} | {moved['kind']} | {' + '.join(moved['axes'])} ({moved['group']}) | "
            f"{moved['times']:,.0f} | {moved['bytes']:.3g} |"
            for moved in collectives
        ]
    return "\n".join(lines)


def too_large_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """What would make it fit."""
    nearest = answer["screened"][0]
    yield (
        f"nearest: {_mesh(nearest)}, batch {nearest['batch_size']}: "
        f"{_gib(nearest['memory_bytes'])} GiB of {_gib(answer['chip_memory_bytes'])}, of which the "
        f"screen leaves {RESERVE:.0%} to what it does not reckon"
    )
    for remedy in answer["remedies"][:8]:
        yield f"{remedy['change']}: {_gib(remedy['memory_bytes'])} GiB"


def _chosen(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The compiled plan that is told of: the first that fits, else the first."""
    compiled = answer["compiled"]
    return next((each for each in compiled if each["train"]["fits"]), compiled[0])


def _mesh(plan: Mapping[str, Any]) -> str:
    return " x ".join(str(size) for size in plan["mesh"].values())


def _gib(size: float) -> str:
    return f"{size / _GIB:.2f}"


def _error(said: float, found: float) -> str:
    return f"{said / found - 1:+.0%}" if found else "none"


def _ms(value: float) -> str:
    return f"{value * 1e3:,.0f} ms"


def tell(found: Mapping[str, Mapping[str, Any]], too_large: Mapping[str, Any] | None) -> str:
    """All tables, as the page has them."""
    parts = [
        "## Memory of a chip (GiB)",
        fit_table(found),
        "## One chip's work in a step",
        work_table(found),
        "## Bounds on a step, and what compiling took",
        bound_table(found),
        "## Collectives",
        collective_table(found),
    ]
    if too_large is not None:
        lines = "\n".join(f"- {line}" for line in too_large_lines(too_large))
        parts += [f"## {TOO_LARGE.title}, which does not fit", lines]
    return "\n\n".join(parts)


def page(text: str, conditions: Mapping[str, Any]) -> str:
    """The Markdown page around what was printed."""
    return (
        "# LoRA on TPU slices, compiled without one\n\n"
        f"`python -m benchmarks.topologies`, {conditions['date']}: jax {conditions['jax']}, "
        f"{conditions['libtpu']}, {conditions['cores']} cores of {conditions['machine']}, which "
        "other programs used, too. Gemma 3 with configs/lora.py (rank 8 on query and value), rows "
        f"of {_LENGTH:,} positions of which half are supervised; mesh and batch by the screen. "
        "Each line is\n\n"
        f"    {' '.join(command(CELLS[0]))}\n\n"
        "No TPU was used, here or for anything below: memory is what the compiler laid out, and "
        "seconds are bounds from the sheet's rates, which no step beats and few come near. *At "
        "best* hides everything behind the longest of compute, memory and links; *in turn* hides "
        "nothing. Percentages under *screen* are by how much the arithmetic that chose the plan "
        "was off.\n\n"
        f"{text}\n"
    )


# --- running -------------------------------------------------------------------------------------


def _conditions() -> dict[str, Any]:
    from coderllm_jax.preflight.compiling import LIBTPU

    return {
        "date": time.strftime("%Y-%m-%d"),
        "jax": importlib.metadata.version("jax"),
        "libtpu": LIBTPU.replace("==", " "),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "machine": platform.machine(),
    }


def define_flags() -> None:
    """The command line."""
    flags.DEFINE_string("json", "", "Also write the figures to this file.")
    flags.DEFINE_string("report", "", "Also write the page to this file (Markdown).")
    flags.DEFINE_string("keep", "", "A folder for answers; those that lie there are taken.")
    models = list(dict.fromkeys(cell.model for cell in CELLS))
    flags.DEFINE_list("models", models, "Cells of which models.")


def main(argv: Sequence[str]) -> None:
    """Asks for every cell, prints and writes what came out; exits with 1 where one does not fit."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    known = [cell.model for cell in CELLS]
    if unknown := [name for name in flags.FLAGS.models if name not in known]:
        raise app.UsageError(f"--models names {unknown[0]!r}; expected {', '.join(known)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(flags.FLAGS.keep or name)
        folder.mkdir(parents=True, exist_ok=True)
        chosen = [cell for cell in CELLS if cell.model in flags.FLAGS.models]
        found = {cell.title: ask(cell, folder) for cell in chosen}
        too_large = ask(TOO_LARGE, folder)
    text, conditions = tell(found, too_large), _conditions()
    print(text)
    if flags.FLAGS.json:
        content = {"conditions": conditions, "cells": found, "too_large": too_large}
        Path(flags.FLAGS.json).write_text(json.dumps(content, indent=1) + "\n")
    if flags.FLAGS.report:
        Path(flags.FLAGS.report).write_text(page(text, conditions))
    if missing := [title for title, answer in found.items() if not answer["fits"]]:
        raise SystemExit(f"\nno fit: {', '.join(missing)}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
