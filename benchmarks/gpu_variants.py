"""What makes our step faster on one NVIDIA GPU: `python -m benchmarks.gpu_variants`.

    attention    how its kernels are best cut (gpu_attention)
    base         4 x 2,048 of Gemma 3 4B as `benchmarks.gpu` first measured it
    …            one change after another on top; what is faster by a hundredth stays
    peft         the peer, in the same call
    last         what stayed, on 1 x 8,192 and traced, and 1B; beside the step's own defaults

Greedy, best guesses first, as far as --budget_s goes. Prints a line for each and logs it; writes
no table: what is worth it becomes the default, which `benchmarks.gpu` then measures.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from benchmarks import gpu
from benchmarks.gpu import Arm
from benchmarks.gpu_cells import Cell, rates

_FLAGS = flags.FLAGS
# Medians of two runs of one program lie closer together than this.
_WORTH_IT = 0.01


class Choice(NamedTuple):
    """Options of the arm `gpu_ours`, and flags for XLA."""

    options: dict[str, Any]
    xla_flags: tuple[str, ...] = ()

    def with_change(self, change: Choice) -> Choice:
        """Both; fields of `head` are joined, the change's other options win."""
        options = {**self.options, **change.options}
        if "head" in self.options and "head" in change.options:
            options["head"] = {**self.options["head"], **change.options["head"]}
        return Choice(options, self.xla_flags + change.xla_flags)


class Variant(NamedTuple):
    """A change to try, and the longest that it may take."""

    name: str
    change: Choice
    limit_s: float = 60.0


def head(**fields: int) -> Choice:
    """A change of how the loss is cut."""
    return Choice({"head": fields})


def xla(flag: str) -> Choice:
    """One more flag for XLA."""
    return Choice({}, (flag,))


# As it was first measured.
BASE = Choice({"attention": "fused", "remat": "projections", "head": {"tokens_per_last_chunk": 0}})
VARIANTS = (
    Variant("last chunk 256", head(tokens_per_last_chunk=256)),
    Variant("cublaslt", xla("--xla_gpu_enable_cublaslt=true")),
    Variant("no triton products", xla("--xla_gpu_enable_triton_gemm=false")),
    Variant("chunk 4096", head(tokens_per_chunk=4096)),
    Variant("vocabulary 32768", head(vocabulary_block=32_768)),
    Variant("no command buffers", xla("--xla_gpu_enable_command_buffer=")),
    Variant("slices in products", xla("--xla_gpu_enable_dynamic_slice_fusion=true")),
    Variant("cudnn products", xla("--xla_gpu_cudnn_gemm_fusion_level=2"), limit_s=90.0),
)
# Takes a minute to compile: after all else.
UNROLLED = Variant("unrolled", Choice({"scan_blocks": "off"}), limit_s=130.0)
# The feed-forward's, the widest there is, and the head's two.
PRODUCTS = [
    [8192, 2560, 10_240],
    [8192, 10_240, 2560],
    [8192, 8192, 8192],
    [2048, 2560, 16_384],
    [2048, 16_384, 2560],
]
CUTS: Mapping[str, Sequence[Sequence[int]]] = {
    "forward": [
        [128, 64, 8, 2],
        [64, 64, 8, 2],
        [128, 64, 8, 3],
        [128, 32, 8, 3],
        [64, 64, 4, 2],
        [64, 32, 4, 3],
        [128, 128, 8, 2],
        [64, 128, 8, 2],
    ],
    "query_gradient": [
        [64, 64, 4, 2],
        [64, 32, 8, 2],
        [64, 64, 8, 2],
        [64, 32, 4, 2],
        [128, 32, 8, 2],
        [128, 64, 8, 2],
        [64, 32, 8, 3],
        [32, 64, 4, 2],
    ],
    "key_value_gradient": [
        [32, 64, 4, 2],
        [64, 32, 8, 2],
        [64, 64, 8, 2],
        [64, 32, 4, 2],
        [64, 16, 4, 3],
        [128, 32, 8, 2],
        [32, 32, 4, 2],
        [64, 32, 8, 3],
    ],
}


class Bench:
    """Runs arms one after another; meanwhile a process of ours imports for the one after."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._begin = folder, time.perf_counter()
        self._waiting: gpu.Started | None = None
        self._number = 0

    @property
    def left_s(self) -> float:
        """Seconds of the budget."""
        return _FLAGS.budget_s - (time.perf_counter() - self._begin)

    def run(self, arm: Arm, *, xla_flags: Sequence[str] = ()) -> dict[str, Any]:
        """The arm's result, printed and logged; {"error": …} where it has none."""
        if self.left_s < gpu.LEAST_S:
            result: dict[str, Any] = {"error": "not reached: the time was used up"}
        else:
            started = self._process(arm)
            before = time.perf_counter()
            orders = {"cell": arm.cell, "options": arm.options, "xla_flags": " ".join(xla_flags)}
            # A CPU that walks through it may be slow.
            limit_s = min(arm.limit_s * (10 if _FLAGS.quick else 1), self.left_s)
            result = gpu.finish(started, limit_s=limit_s, orders=orders)
            result = {**result, "wall_s": time.perf_counter() - before}
        print(f"{arm.name}: {told(result, arm.cell)}", flush=True)
        if _FLAGS.log:
            asked = {"arm": arm.name, "options": arm.options, "xla_flags": list(xla_flags)}
            with Path(_FLAGS.log).open("a") as stream:
                stream.write(json.dumps({**asked, **result}) + "\n")
        return result

    def _process(self, arm: Arm) -> gpu.Started:
        if arm.module != "gpu_ours":
            return gpu.start(arm, self._folder)
        started = self._waiting or self._import_ours(arm.cell)
        # Which cell and options it gets, it learns when it is let go.
        self._waiting = self._import_ours(arm.cell)
        return started

    def _import_ours(self, cell: Cell) -> gpu.Started:
        self._number += 1
        return gpu.start(Arm(f"ours-{self._number}", cell, "", "gpu_ours", {}), self._folder)

    def close(self) -> None:
        """Ends the process that still waits."""
        if self._waiting:
            gpu.drop(self._waiting)
            self._waiting = None


def told(result: Mapping[str, Any], cell: Cell) -> str:
    """A result in a line."""
    text = gpu.in_short(result)
    if result.get("peak_bytes"):
        text += f", {result['peak_bytes'] / 1e9:.1f} GB"
    if "step_s" in result and (mfu := rates(result, cell, device="H200")["mfu"]):
        text += f", MFU {mfu:.1%} of an H200"
    return text


def climb(
    base: Choice,
    variants: Sequence[Variant],
    measure: Callable[[Variant, Choice], float | None],
    *,
    base_s: float | None,
) -> tuple[Choice, float]:
    """The base with each change that made it faster by `_WORTH_IT`, and the seconds of a step.

    measure gives them, or None where a variant did not run: its change goes.
    """
    best, best_s = base, float("inf") if base_s is None else base_s
    for variant in variants:
        tried = best.with_change(variant.change)
        seconds = measure(variant, tried)
        if seconds is not None and seconds < (1 - _WORTH_IT) * best_s:
            best, best_s = tried, seconds
    return best, best_s


def main(argv: list[str]) -> None:
    """Climbs, and prints what stayed."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    quick = _FLAGS.quick
    if _FLAGS.platform == "cpu" and not quick:
        raise app.UsageError("--platform=cpu measures nothing; add --quick")
    cells = [Cell("small", 2, 128)] * 3 if quick else list(gpu.CELLS.values())[:3]
    short, long, small = cells
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))

        def ours(arm: str, choice: Choice, cell: Cell = short, limit_s: float = 60.0) -> Any:
            options = dict(choice.options)
            return bench.run(
                Arm(arm, cell, arm, "gpu_ours", options, limit_s=limit_s),
                xla_flags=choice.xla_flags,
            ).get("step_s")

        def tried(variant: Variant, choice: Choice) -> float | None:
            # On a CPU flags for GPUs are errors.
            choice = choice._replace(xla_flags=()) if quick else choice
            return ours(variant.name, choice, limit_s=variant.limit_s)

        traced = Choice({"profile": True})
        cuts = {kernel: list(each)[: 2 if quick else None] for kernel, each in CUTS.items()}
        products = [[64, 64, 64]] if quick else PRODUCTS
        asked = {"cuts": cuts, "products": products}
        attention = Arm("attention", short, "attention", "gpu_attention", asked, limit_s=60.0)
        best_cuts = bench.run(attention).get("best")
        blocks = [Variant("blocks", Choice({"blocks": best_cuts}))] if best_cuts else []
        base_s = ours("base, traced", BASE.with_change(traced))
        peft = {"attention": "sdpa", "checkpointing": False}
        bench.run(Arm("peft", short, "PEFT", "gpu_peft", peft, limit_s=60.0))
        best, best_s = climb(BASE, [*blocks, *VARIANTS], tried, base_s=base_s)
        kept = best._replace(xla_flags=()) if quick else best
        ours("best, traced", kept.with_change(traced))
        ours("best, 8,192", kept, long)
        ours("defaults", Choice({}))
        ours("best, 1B", kept, small)
        best, best_s = climb(best, [UNROLLED], tried, base_s=best_s)
        bench.close()
    xla_flags = " ".join(best.xla_flags)
    print(f"\nbest: {best_s * 1e3:.1f} ms with {json.dumps(best.options)} {xla_flags}".rstrip())


if __name__ == "__main__":
    app.run(main)
