"""Compiles a plan's real step for its slice, without a chip, in a process of its own.

    parent: compile_step(plan) ──job.json──> python -m coderllm_jax.preflight.compiling FOLDER
                               <─result.json─  topology, mesh, shapes, lower, compile, count

libtpu is one for a process, talks to stderr, and may hang or be killed for memory: the parent must
answer in one line whatever becomes of it. The child gets an environment that keeps libtpu from
asking a network for the machine that it is not on, and is ended, with all that it started, when it
takes too long or too much memory. Nothing in it allocates a weight.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil

from coderllm_jax.config.preflight import PreflightConfig
from coderllm_jax.errors import DeviceError
from coderllm_jax.preflight.costs import Collective, Costs, chunk_trips, count_costs
from coderllm_jax.preflight.hlo import parse_module
from coderllm_jax.preflight.plan import Plan

Step = Literal["train", "evaluation"]

# The one that jax 0.10.2 pins in its extra `tpu`.
LIBTPU = "libtpu==0.0.42.1"
_LOOK_S = 0.5
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Compiled for chips that are not here: nobody could load it from a cache.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}
# libtpu's two ways to say it.
_TOO_LARGE = (
    re.compile(r"Used (?P<used>[\d.]+[KMGT]?) of (?P<limit>[\d.]+[KMGT]?) hbm"),
    re.compile(
        r"total memory required for .*? \((?P<used>[\d.]+[KMGT]?)\) exceeds available HBM "
        r"\((?P<limit>[\d.]+[KMGT]?)\)"
    ),
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Memory(NamedTuple):
    """Of one chip, in bytes, as XLA laid it out. outputs: those that no argument gives room for."""

    arguments: int
    outputs: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        return sum(self)


class Compiled(NamedTuple):
    """What came of a compilation. Without `memory` it did not fit, and needed so many bytes.

    costs: None where it did not fit. xla: its own analysis, loops counted once.
    """

    step: Step
    memory: Memory | None
    needed_bytes: float
    limit_bytes: float | None
    costs: Costs | None
    xla: Mapping[str, float]
    held: Mapping[str, float]
    description: Mapping[str, Any]
    lower_s: float
    compile_s: float
    host_peak_bytes: int

    @property
    def fits(self) -> bool:
        return self.memory is not None


def find_library(config: PreflightConfig) -> Path:
    """libtpu.so; DeviceError where there is none, with how to get one."""
    kept = Path(config.model.cache_dir).expanduser() / "libtpu"
    if config.compile.library:
        path = Path(config.compile.library).expanduser()
        if not path.is_file():
            raise DeviceError(
                f"compile.library is {config.compile.library!r}, which is not there; name a "
                "libtpu.so, or leave it out"
            )
        return path
    candidates = [Path(os.environ.get("TPU_LIBRARY_PATH", "")), kept / "libtpu" / "libtpu.so"]
    package = importlib.util.find_spec("libtpu")
    if package is not None and package.submodule_search_locations:
        candidates.append(Path(package.submodule_search_locations[0]) / "libtpu.so")
    for path in candidates:
        if path.is_file():
            return path
    raise DeviceError(
        "libtpu is not here, which compiles for TPUs that are not here either; run `pip install "
        f"--no-deps --target {config.model.cache_dir}/libtpu {LIBTPU}`, or set compile.winners=0 "
        "for the screen alone"
    )


def compile_step(plan: Plan, step: Step, *, config: PreflightConfig, library: Path) -> Compiled:
    """Compiles in a child; DeviceError where it gave no answer."""
    with tempfile.TemporaryDirectory(prefix="preflight-") as name:
        folder = Path(name)
        job = {
            "config": plan.config.to_dict(),
            "topology": plan.slice.name,
            "shape": list(plan.slice.shape),
            "step": step,
        }
        (folder / "job.json").write_text(json.dumps(job))
        _run_child(folder, config=config, library=library)
        return _read_result(json.loads((folder / "result.json").read_text()))


def _run_child(folder: Path, *, config: PreflightConfig, library: Path) -> None:
    package = Path(__file__).resolve().parents[2]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TPU_")},
        **_ENVIRONMENT,
        "TPU_LIBRARY_PATH": str(library),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")])),
    }
    section = config.compile
    with (folder / "stderr").open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", "coderllm_jax.preflight.compiling", str(folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            problem = _watch(child, timeout_s=section.timeout_s, limit=section.max_memory_gb * 1e9)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    if problem:
        raise DeviceError(problem)
    if child.returncode or not (folder / "result.json").is_file():
        raise DeviceError(
            f"libtpu did not compile the step ({_reason(child.returncode, folder / 'stderr')}); "
            f"the version that goes with jax is {LIBTPU}: install that, or set compile.winners=0 "
            "for the screen alone"
        )


def _watch(child: subprocess.Popen[bytes], *, timeout_s: float, limit: float) -> str:
    """Waits for the end; what went wrong on the way, where something did."""
    started_s = time.monotonic()
    while child.poll() is None:
        if time.monotonic() - started_s > timeout_s:
            return (
                f"libtpu gave no answer within {timeout_s:g} s; give it more by compile.timeout_s, "
                "or set compile.winners=0 for the screen alone"
            )
        try:
            held = psutil.Process(child.pid).memory_info().rss
        except psutil.Error:
            break
        if held > limit:
            return (
                f"compiling took {held / 1e9:.1f} GB of this machine's memory, more than "
                "compile.max_memory_gb; raise it where there is more, or set compile.winners=0"
            )
        time.sleep(_LOOK_S)
    child.wait()
    return ""


def _reason(code: int, stderr: Path) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    lines = stderr.read_text(errors="replace").strip().splitlines()
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or [f"exit code {code}"])[-1].strip()[:300]


def _read_result(found: dict[str, Any]) -> Compiled:
    costs = found.pop("costs")
    memory = found.pop("memory")
    return Compiled(
        memory=Memory(**memory) if memory else None,
        costs=_read_costs(costs) if costs else None,
        **found,
    )


def _read_costs(found: dict[str, Any]) -> Costs:
    collectives = tuple(
        Collective(**{**each, "axes": tuple(each["axes"])}) for each in found.pop("collectives")
    )
    return Costs(
        collectives=collectives,
        unknown_loops=tuple((name, trips) for name, trips in found.pop("unknown_loops")),
        custom_calls=tuple(found.pop("custom_calls")),
        **found,
    )


# --- in the child --------------------------------------------------------------------------------


def main(folder: Path) -> None:
    """Does the job that lies in a folder, and leaves its result there; ends with its parent."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    job = json.loads((folder / "job.json").read_text())
    result = _compile(job)
    (folder / "result.json").write_text(json.dumps(result))


def _end_with(parent: int) -> None:
    """Ends the process once its parent has gone: nobody would read what it compiles."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def _compile(job: Mapping[str, Any]) -> dict[str, Any]:
    import jax
    from jax.experimental import topologies

    from coderllm_jax.model.sharding import make_mesh
    from coderllm_jax.preflight.catalogue import find_architecture
    from coderllm_jax.training.step import outline_program

    config = PreflightConfig.from_config_dict(job["config"])
    shape = job["shape"]
    # One chip is less than the host that libtpu takes for the smallest part otherwise.
    bounds = {"chips_per_host_bounds": [1, 1, 1]} if max(shape) == 1 else {}
    topology = topologies.get_topology_desc(platform="tpu", topology_name=job["topology"], **bounds)
    mesh = make_mesh(config.mesh, devices=list(topology.devices))
    architecture = find_architecture(config.model_name)
    started_s = time.monotonic()
    outline = outline_program(config, architecture, num_steps=1000, mesh=mesh)
    lower = outline.lower_train_step if job["step"] == "train" else outline.lower_eval_step
    lowered = lower()
    lowered_s = time.monotonic()
    result: dict[str, Any] = {
        "step": job["step"],
        "memory": None,
        "costs": None,
        "xla": {},
        "limit_bytes": None,
        "held": {
            "frozen": _shard_bytes(outline.frozen),
            "trained": _shard_bytes(outline.state.trainable),
            "optimizer": _shard_bytes(outline.state.opt_state),
            "batch": _shard_bytes(outline.batch),
        },
        "description": outline.description,
    }
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        sizes = read_refusal(str(error))
        if sizes is None:
            raise
        result["needed_bytes"], result["limit_bytes"] = sizes
    else:
        result |= _read_compiled(compiled, config=config, mesh=dict(mesh.shape), outline=outline)
    return result | {
        "lower_s": lowered_s - started_s,
        "compile_s": time.monotonic() - lowered_s,
        "host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _read_compiled(
    compiled: Any, *, config: PreflightConfig, mesh: Mapping[str, int], outline: Any
) -> dict[str, Any]:
    sizes = compiled.memory_analysis()
    memory = Memory(
        arguments=sizes.argument_size_in_bytes,
        outputs=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        code=sizes.generated_code_size_in_bytes,
    )
    xla = compiled.cost_analysis() or {}
    positions = outline.batch.inputs.sharding.shard_shape(outline.batch.inputs.shape)
    trips = loss_trips(
        positions[0] * positions[1] // config.optimizer.accumulation_steps,
        config.screen.supervised_fraction,
        chunk=outline.description["loss_tokens_per_chunk"],
    )
    costs = count_costs(
        parse_module(compiled.as_text() or ""), mesh, unknown_trips=chunk_trips(trips)
    )
    return {
        "memory": memory._asdict(),
        "needed_bytes": float(memory.total),
        "costs": costs._asdict() | {"collectives": [each._asdict() for each in costs.collectives]},
        "xla": {name: float(xla[name]) for name in ("flops", "bytes accessed") if name in xla},
    }


def read_refusal(text: str) -> tuple[float, float] | None:
    """(needed, there is), in bytes of a chip, where libtpu says that a program is too large."""
    for pattern in _TOO_LARGE:
        match = pattern.search(text)
        if match is not None:
            return _read_size(match["used"]), _read_size(match["limit"])
    return None


def _read_size(text: str) -> float:
    number = text.rstrip("KMGT")
    return float(number) * _UNITS[text[len(number) :]]


def loss_trips(positions: int, supervised_fraction: float, *, chunk: int) -> dict[int, float]:
    """How often the loss's two loops run on a chip, by their chunks; see `model.loss`."""
    chunk, last = min(chunk, positions), 256
    supervised = positions * supervised_fraction
    if chunk % (2 * last):
        return {chunk: -(-supervised // chunk)}
    large = max((supervised + chunk - chunk // 2 - 1) // chunk, 0.0)
    return {chunk: large, last: max(-(-(supervised - large * chunk) // last), 0.0)}


def _shard_bytes(tree: Any) -> float:
    """Of one chip, of a tree of shapes that say how they lie."""
    import jax
    import numpy as np

    return float(
        sum(
            np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
