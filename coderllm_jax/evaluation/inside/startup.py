"""A sandboxed process's first steps: its descriptors, its limits, its job.

    0 the job, then /dev/null     1, 2 /dev/null or a capped pipe
    others, as the job names them: frames in, frames out; the verdict (the examiner's only)

The limits are set here and not by whoever starts the sandbox, so that they bind the program and
not bubblewrap, and before a line of untrusted code is read. A soft limit equals its hard limit, so
nothing raises it again; the time limit's hard one is a second above, for a program that catches
the signal.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys

# Not imported when this runs: every import here is paid for twice in every judgement.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def read_job() -> dict[str, Any]:
    """The job from standard input, which is /dev/null from then on."""
    with open(0, "rb", closefd=False) as stream:
        job = json.load(stream)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - lives as long as the process
    return job


def import_libraries(job: Mapping[str, Any]) -> None:
    """Imports what the job names, before the clock starts: loading JAX is not the answer's cost."""
    sys.path.extend(job["paths"])
    for name in job["libraries"]:
        try:
            __import__(name)
        except Exception:  # noqa: BLE001, S112 - the program meets it again, and has to say so
            continue


def apply_limits(limits: Mapping[str, int]) -> None:
    """Sets this process's limits for good; `cpu_s` counts from now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = int(usage.ru_utime + usage.ru_stime) + limits["cpu_s"]
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_AS, limits["memory_bytes"], limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"], limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["files"], limits["files"]),
        (resource.RLIMIT_NPROC, limits["threads"], limits["threads"]),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ):
        _, most = resource.getrlimit(kind)
        bound = hard if most == resource.RLIM_INFINITY else most  # an outer limit may be tighter
        resource.setrlimit(kind, (min(soft, bound), min(hard, bound)))
