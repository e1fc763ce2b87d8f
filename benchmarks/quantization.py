"""QLoRA beside float LoRA on the real model, and float16: `python -m benchmarks.quantization`.

Gemma 3 270M, LoRA rank 8 on query and value, a packed batch of the quick-start rows (4 x 256,
data/training), this machine. For each base (float, int8, int4, nf4, nf4-calibrated: rounded on 64
other rows; card: the same with key and value in 8 bits, as configs/qlora.py), in a process of its
own:

    cosine     of the step's gradient with the float base's: at the start, where B is zero and A
               owes nothing, and later, with adapters that 16 other batches trained on floats;
               all adapters as one vector
    memory     bits a weight of the kernels; the weights' bytes; the most that loading adds to the
               resident set, also as a part of the weights and the one tensor that is being read;
               the most that steps add
    time       of a step, in processor seconds of all cores, which other programs hardly move

Then what each way of rounding costs the gradient (`quantization_levers`), where Gemma's activations
leave float16, and what a float16 run does. Prints tables, says beside each ratio whether its goal
is met, and exits with 0 either way. The model comes from the installed package, whose own 4-bit
blocks it was unpacked from: other weights round otherwise.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.goals import Ratio, ratio_lines
from benchmarks.measure import run_module
from benchmarks.quantization_arm import ARMS

BASES = tuple(ARMS)
_LEAST_COSINE = {"int8": 0.99, "nf4": 0.97, "nf4-calibrated": 0.97, "card": 0.97}
# What loading may add to what is kept and the one tensor that is read: allocators and libraries.
_MOST_LOADING = 1.25
_LARGEST_FLOAT16 = 65_504.0


def cosine(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    """Of two gradients, all their leaves as one vector."""
    first, second = (
        np.concatenate([np.ravel(each[name]) for name in sorted(one)]).astype(np.float64)
        for each in (one, other)
    )
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def loading_share(found: Mapping[str, Any]) -> float:
    """Peak of loading over what must be there at once: the weights and one tensor."""
    return found["load_peak_bytes"] / (found["weights_bytes"] + found["tensor_bytes"])


def compare(found: Mapping[str, Mapping[str, Any]]) -> list[Ratio]:
    """Every ratio of the bases that were measured, with what was promised of it."""
    ratios = []
    plain = found.get("float")
    for base in BASES[1:]:
        if base not in found:
            continue
        this, least = found[base], _LEAST_COSINE.get(base)
        for place in ("start", "later"):
            if f"cosine_{place}" in this:
                name = f"{base}, cosine with float, {place}"
                ratios.append(Ratio(name, this[f"cosine_{place}"], at_least=least))
        share = loading_share(this)
        ratios.append(
            Ratio(f"{base}, loading / (weights + a tensor)", share, at_most=_MOST_LOADING)
        )
        if plain:
            ratios += [
                Ratio(f"{base}, {title} / float", this[key] / plain[key])
                for title, key in (
                    ("kernels", "kernels_bytes"),
                    ("all weights", "weights_bytes"),
                    ("processor time of a step", "step_processor_s"),
                )
            ]
    return ratios


# --- telling -------------------------------------------------------------------------------------


def base_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A base a line; megabytes are 10^6 bytes."""
    head = (
        f"{'base':<16}{'bits':>6}{'kernels':>9}{'weights':>9}{'loading adds':>14}{'steps add':>11}"
        f"{'s/step':>8}{'cosine':>9}{'later':>8}{'loss':>9}{'later':>9}"
    )
    lines = [head + "   (MB, processor s)", "-" * len(head)]
    for base, this in found.items():
        sizes = [this[f"{name}_bytes"] / 1e6 for name in ("kernels", "weights")]
        peaks = [this[f"{name}_peak_bytes"] / 1e6 for name in ("load", "step")]
        cosines = [this.get(f"cosine_{place}", float("nan")) for place in ("start", "later")]
        losses = [this[f"{place}_loss"] for place in ("start", "later")]
        lines.append(
            f"{base:<16}{this['kernels_bits']:>6.2f}{sizes[0]:>9.0f}{sizes[1]:>9.0f}{peaks[0]:>14.0f}{peaks[1]:>11.0f}"
            f"{this['step_processor_s']:>8.1f}{cosines[0]:>9.4f}{cosines[1]:>8.4f}"
            f"{losses[0]:>9.4f}{losses[1]:>9.4f}"
        )
    lines += [
        f"{base}: rounding took {this['round_processor_s']:.0f} processor s and "
        f"{this['round_peak_bytes'] / 1e6:.0f} MB more"
        for base, this in found.items()
        if "round_peak_bytes" in this
    ]
    return "\n".join(lines)


def lever_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """A lever a line, in the order in which they were measured."""
    titles = {
        "error": ("error", 8),
        "cosine_start": ("cosine", 9),
        "cosine_later": ("later", 8),
        "start_loss": ("loss", 9),
        "later_loss": ("later", 9),
    }
    columns = {key: width for key, (_, width) in titles.items()}
    words = "".join(f"{title:>{width}}" for title, width in titles.values())
    head = f"{'rounding':<36}{'bits':>6}{words}"
    lines = [head, "-" * len(head)]
    for name, row in found.items():
        figures = "".join(
            f"{row[key]:>{width}.4f}" if key in row else f"{'':>{width}}"
            for key, width in columns.items()
        )
        bits = f"{row['bits']:>6.2f}" if "bits" in row else f"{'':>6}"
        lines.append(f"{name:<36}{bits}{figures}")
    return "\n".join(lines)


def first_overflow(layers: Sequence[Mapping[str, float]]) -> str:
    """The first place, in the order of computing, whose largest number float16 cannot hold."""
    for number, layer in enumerate(layers):
        for name, value in layer.items():
            if not value <= _LARGEST_FLOAT16:
                return f"layer {number}, {name}: {value:,.0f}"
    return "nowhere"


def activation_table(layers: Sequence[Mapping[str, float]]) -> str:
    """Each place's largest number over all layers, beside the most that float16 holds."""
    lines = []
    for name in layers[0]:
        values = [layer[name] for layer in layers]
        number = int(np.argmax(values))
        share = values[number] / _LARGEST_FLOAT16
        lines.append(f"{name:<24}{values[number]:>14,.1f}   layer {number:>2}{share:>10.4f}")
    return "\n".join([f"{'largest number':<24}{'':>24}{'of 65,504':>10}", *lines])


def float16_lines(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A step a line, for each kind of sums."""
    lines = []
    for title, rows in found.items():
        lines.append(title)
        lines += [
            f"  step {number}: loss {row['loss']:.4f}, gradient norm {row['grad_norm']:.4f}, "
            f"loss scale {row['loss_scale']:g}, {row['verdict'].replace('_', ' ')}"
            for number, row in enumerate(rows, start=1)
        ]
    return "\n".join(lines)


def tell(found: Mapping[str, Any]) -> str:
    """Everything that was measured, as people read it."""
    parts = [f"{found['inputs']['rows']} rows; {found['inputs']['model']}"]
    if found["bases"]:
        parts += [base_table(found["bases"]), ratio_lines(compare(found["bases"]))]
    if "levers" in found:
        parts.append(lever_table(found["levers"]))
    if "activations" in found:
        layers = found["activations"]["layers"]
        parts += [
            activation_table(layers),
            f"first place past float16: {first_overflow(layers)}",
        ]
    if "float16" in found:
        parts.append(float16_lines(found["float16"]))
    return "\n\n".join(parts)


def page(text: str, conditions: Mapping[str, Any]) -> str:
    """The Markdown page around what was printed."""
    return (
        "# QLoRA and float16 on the real model\n\n"
        f"`python -m benchmarks.quantization --steps={conditions['steps']}`, "
        f"{conditions['date']}, {conditions['cores']} cores, {conditions['machine']}, Python "
        f"{conditions['python']}, jax {conditions['jax']}; load "
        f"{conditions['load_before'][0]:.1f} before; {conditions['wall_s'] / 60:.0f} min.\n\n"
        f"```\n{text}\n```\n\n"
        "The embedding, 63 % of this model, stays as it is; in a 4B model it is 17 %. The "
        "package's weights were 4 bits once (Q4_K_M), on other blocks and levels. Seconds are the "
        "processor's, summed over cores, because other programs ran; the two steps of the cosines "
        "went before those that count.\n"
    )


# --- running -------------------------------------------------------------------------------------


def measure_all(
    bases: Sequence[str], *, with_levers: bool, with_float16: bool, num_steps: int
) -> dict[str, Any]:
    """Every part in a process of its own, one after another."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found: dict[str, Any] = {
            "inputs": _run(folder, "rows", steps=0),
            "adapters": _run(folder, "adapters", steps=0),
            "bases": {},
        }
        for base in bases:
            found["bases"][base] = _run(folder, "base", base, steps=num_steps)
            print(f"  {base}: {found['bases'][base]['step_processor_s']:.1f} s a step", flush=True)
        for base in bases[1:] if bases[:1] == ["float"] else []:
            for place in ("start", "later"):
                with (
                    np.load(folder / f"{base}-{place}.npz") as one,
                    np.load(folder / f"float-{place}.npz") as other,
                ):
                    found["bases"][base][f"cosine_{place}"] = cosine(one, other)
        if with_levers:
            found["levers"] = _measure("benchmarks.quantization_levers", folder, str(folder))
        if with_float16:
            found["activations"] = _run(folder, "activations", steps=0)
            found["float16"] = _run(folder, "float16", steps=num_steps)
    return found


def _run(folder: Path, *part: str, steps: int) -> dict[str, Any]:
    return _measure("benchmarks.quantization_arm", folder, *part, str(folder), str(steps))


def _measure(module: str, folder: Path, *arguments: str) -> dict[str, Any]:
    problem = run_module(
        module,
        *arguments,
        environment={
            "JAX_PLATFORMS": "cpu",
            # glibc would keep freed blocks for itself, and one part be charged for another.
            "MALLOC_MMAP_THRESHOLD_": str(256 << 10),
        },
    )
    if problem:
        raise SystemExit(f"error: {module} {' '.join(arguments)} could not be measured: {problem}")
    return json.loads((folder / "found.json").read_text())


def _conditions() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "steps": flags.FLAGS.steps,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
        "load_before": os.getloadavg(),
    }


def define_flags() -> None:
    """The command's flags; tests import this module beside others that have some of these names."""
    flags.DEFINE_string("json", "", "Also write the figures to this file.")
    flags.DEFINE_string("report", "", "Also write the page to this file (Markdown).")
    flags.DEFINE_list("bases", list(BASES), "Which are measured; float first, for the cosines.")
    flags.DEFINE_bool("levers", True, "Whether ways of rounding are compared, too.")
    flags.DEFINE_bool("float16", True, "Whether float16 is looked at, too.")
    flags.DEFINE_integer("steps", 3, "Steps that are timed, and of a float16 run.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Measures what is asked for, prints and writes what came out."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if unknown := [base for base in flags.FLAGS.bases if base not in BASES]:
        raise app.UsageError(f"--bases names {unknown[0]!r}; expected {', '.join(BASES)}")
    started, conditions = time.perf_counter(), _conditions()
    found = measure_all(
        flags.FLAGS.bases,
        with_levers=flags.FLAGS.levers,
        with_float16=flags.FLAGS.float16,
        num_steps=flags.FLAGS.steps,
    )
    conditions["wall_s"] = time.perf_counter() - started
    text = tell(found)
    print(text)
    if flags.FLAGS.json:
        figures = {
            "conditions": conditions,
            **found,
            "ratios": [ratio.as_json() for ratio in compare(found["bases"])],
        }
        Path(flags.FLAGS.json).write_text(json.dumps(figures, indent=1) + "\n")
    if flags.FLAGS.report:
        Path(flags.FLAGS.report).write_text(page(text, conditions))


if __name__ == "__main__":
    define_flags()
    app.run(main)
