"""Runs a program of its own, as `python program.py` would; what it prints is its answer."""

from __future__ import annotations

import sys

from coderllm_jax.evaluation.inside import startup


def main() -> None:
    """Runs the job's program as `__main__`."""
    job = startup.read_job()
    startup.import_libraries(job)
    startup.apply_limits(job["limits"])
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    namespace = module.__dict__
    exec(compile(job["program"], "program.py", "exec", dont_inherit=True), namespace)  # noqa: S102 - sandboxed
