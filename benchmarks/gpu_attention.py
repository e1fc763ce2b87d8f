"""How the attention kernels are best cut on this device: an arm of `benchmarks.gpu_variants`.

Each kernel is compiled and timed alone, on the cell's rows and a global layer's spans, for every
cut of the options' list. One that does not compile is a line that says why.
"""

from __future__ import annotations

import concurrent.futures
import functools
from typing import Any

import numpy as np

from benchmarks.gpu_cells import (
    MODELS,
    Job,
    choose_jax_platform,
    packed_batch,
    run_arm,
    write_result,
)
from benchmarks.gpu_check import product_rate, timed

KERNELS = ("forward", "query_gradient", "key_value_gradient")
_COMPILED_AT_ONCE = 12
_TOLERANCE = 1e-2


def import_libraries(job: Job) -> None:
    """The kernels, no device touched."""
    choose_jax_platform(job)
    from coderllm_jax.model import fused_attention

    assert fused_attention


def measure(job: Job) -> dict[str, Any]:
    """{"seconds": {kernel: [[cut, seconds or why not], …]}, "best": a cut for each kernel}.

    And "products": FLOP/s of bfloat16 products, which is as fast as a step can be.
    """
    import jax
    import jax.numpy as jnp

    from coderllm_jax.model import fused_attention as kernels

    architecture, batch = MODELS[job.cell.model], packed_batch(job.cell)
    rows, length, size = job.cell.rows, job.cell.length, architecture.head_size
    _, spans = kernels.packed_spans(
        jnp.asarray(batch.positions), jnp.asarray(batch.segments), window=architecture.window
    )
    keys = jax.random.split(jax.random.key(1), 4)
    heads = (architecture.num_heads, *(architecture.num_kv_heads,) * 2, architecture.num_heads)
    q, k, v, ct = (
        jax.random.normal(key, (rows, length, number, size), jnp.bfloat16)
        for key, number in zip(keys, heads, strict=True)
    )
    setting = kernels._Setting(architecture.query_scale, kernels.BLOCKS)  # noqa: SLF001
    out, normalizer = jax.jit(functools.partial(kernels._forward, setting=setting))(  # noqa: SLF001
        q, k, v, spans
    )
    owed = jnp.einsum("blhk,blhk->bhl", out, ct, preferred_element_type=jnp.float32)
    arrays = (q, k, v, ct, spans.first, spans.last, normalizer, owed)

    def prepared(kernel: str, cut: list[int]) -> Any:
        whole = kernels.Blocks()._replace(**{kernel: kernels.Cut(*cut)}).fitting(length)
        setting = kernels._Setting(architecture.query_scale, whole)  # noqa: SLF001
        if kernel == "forward":

            def launch(arrays: tuple) -> Any:
                seen = kernels.Spans(*arrays[4:6])
                return kernels._forward(*arrays[:3], seen, setting)  # noqa: SLF001

        elif kernel == "query_gradient":

            def launch(arrays: tuple) -> Any:
                return kernels._query_gradient(arrays, setting)  # noqa: SLF001

        else:

            def launch(arrays: tuple) -> Any:
                return kernels._key_value_gradient(arrays, setting)  # noqa: SLF001

        return jax.jit(launch).lower(arrays).compile()

    exact: dict[str, list] = {}  # by each kernel's first cut, which `check` found right
    found: dict[str, Any] = {
        "products": {
            "x".join(map(str, shape)): product_rate(*shape) for shape in job.options["products"]
        },
        "seconds": {kernel: [] for kernel in KERNELS},
        "best": [],
    }
    with concurrent.futures.ThreadPoolExecutor(_COMPILED_AT_ONCE) as pool:
        waiting = [
            (kernel, cut, pool.submit(prepared, kernel, cut))
            for kernel in KERNELS
            for cut in job.options["cuts"][kernel]
        ]
        for kernel, cut, future in waiting:
            try:
                launch = future.result()
                told: float | str = timed(launch, arrays)
                outputs = jax.tree.leaves(launch(arrays))
                if error := _beyond_rounding(outputs, exact.setdefault(kernel, outputs)):
                    told = f"{error:.1e} from the first cut's outputs"
            except Exception as error:  # noqa: BLE001 - a kernel that does not compile is a result
                told = f"{type(error).__name__}: {str(error)[:200]}"
            found["seconds"][kernel].append([cut, told])
            write_result(job, found | {"best": best_cuts(found["seconds"])})
    return found | {"best": best_cuts(found["seconds"])}


def _beyond_rounding(found: list[Any], exact: list[Any]) -> float:
    """The largest relative error, if it is more than sums in another order explain; else zero."""
    errors = []
    for one, other in zip(found, exact, strict=True):
        x, y = np.asarray(one, np.float32), np.asarray(other, np.float32)
        errors.append(float(np.linalg.norm(x - y) / np.linalg.norm(y)))
    # Written so that NaN is beyond it.
    return 0.0 if max(errors) < _TOLERANCE else max(errors)


def best_cuts(seconds: dict[str, list]) -> list[list[int]]:
    """The fastest cut of each kernel; nothing as long as one of them has none."""
    best = []
    for kernel in KERNELS:
        timed_cuts = [(told, cut) for cut, told in seconds[kernel] if isinstance(told, float)]
        if not timed_cuts:
            return []
        best.append(min(timed_cuts)[1])
    return best


if __name__ == "__main__":
    run_arm(import_libraries, measure)
