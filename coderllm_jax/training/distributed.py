"""Several processes as one run: how they find one another, agree, and part.

    start(section)            jax.distributed, where this is one process of several
    must_agree(name, values)  every process has the same values, or all of them end with the diff
    barrier(name)             all are here
    ends_for_all()            an error that the others do not share ends this process at once

One process pays nothing: every function returns at once. All processes must share the run's folder.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from coderllm_jax.config.training import DistributedSection
from coderllm_jax.errors import ConfigError, DeviceError, ResumableError, UserError
from coderllm_jax.redaction import redact
from coderllm_jax.training.signals import EXIT_RESUMABLE

# What gloo, NCCL and the coordination service say when a peer's end of a connection is closed.
_CONNECTION = re.compile(
    r"gloo|nccl|connection (reset|closed|refused)|socket closed|peer|heartbeat|UNAVAILABLE"
    r"|coordination service|DEADLINE_EXCEEDED|barrier",
    re.IGNORECASE,
)


# How long process 0 waits for the others to leave.
_FAREWELL_S = 10.0

_abort_handler: Any = None


def start(section: DistributedSection) -> None:
    """Joins the other processes where there are any; DeviceError where they do not come.

    Must come before the first computation. In a notebook or script that has called
    `jax.distributed.initialize` itself, nothing is done.
    """
    if jax.distributed.is_initialized() or not section.means_several(os.environ):
        return
    # A process that is left alone ends by itself, with 42 and a line that names who is missing;
    # without this the coordinator's client would abort it first.
    jax.config.update("jax_enable_recoverability", True)
    # It would take SIGTERM for itself, and keep it until a barrier that nobody calls.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address=section.coordinator or None,
            num_processes=section.num_processes or None,
            process_id=section.process_id if section.process_id >= 0 else None,
            # Plain addresses say nothing about cards: every process has all of its host's.
            cluster_detection_method="deactivate" if _is_complete(section) else None,
            initialization_timeout=int(section.timeout_s),
        )
    except jax.errors.JaxRuntimeError as error:  # somebody is late, or gone: a retry may find all
        raise ResumableError(
            f"the processes of this run did not all come within {section.timeout_s:g} s "
            f"({_short(error)}); start them together, or raise distributed.timeout_s"
        ) from error
    except Exception as error:
        raise DeviceError(
            f"the processes of this run did not find one another ({_short(error)}); set "
            "distributed.coordinator, num_processes and process_id, or distributed.enabled=off "
            "for a run of one process"
        ) from error
    if jax.process_index():
        _end_with_42_on_abort()
    atexit.register(_leave_in_order)  # after JAX's own, so before it


def _leave_in_order() -> None:
    """Process 0 goes last: without it JAX's client aborts the others, which have nothing to fear.

    Processes that can be left alone are not waited for by JAX. A dead one is not waited for here.
    """
    with contextlib.suppress(Exception):  # whatever is said of a run, it has been said by now
        if jax.process_index():
            jax.distributed.shutdown()
            return
        waiting = threading.Thread(target=_wait_until_alone, name="farewell", daemon=True)
        waiting.start()
        waiting.join(_FAREWELL_S)


def _wait_until_alone() -> None:
    from jax.experimental import multihost_utils

    # Returns when every process has either called it, which no other does, or left.
    with contextlib.suppress(Exception), multihost_utils.live_devices(jax.devices()):
        pass


def _end_with_42_on_abort() -> None:
    """Without process 0 JAX's client aborts the others (SIGABRT, exit code 134): 42 is truer.

    Whatever else aborts one of them ends with 42 as well: what JAX wrote about it stands above the
    line. abort() calls the handler in the thread that called it, so this is no asynchronous signal
    and may run Python. One of Python's own handlers would only be noted, and the process killed.
    """

    def leave(number: int) -> None:
        del number
        line = (
            "interrupted: aborted by JAX, most likely because process 0 is gone; the same command "
            "goes on from the last checkpoint\n"
        )
        os.write(2, line.encode())
        os._exit(EXIT_RESUMABLE)

    global _abort_handler  # noqa: PLW0603 - C keeps the address: it must outlive this call
    _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(leave)
    ctypes.CDLL(None).signal(signal.SIGABRT, _abort_handler)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _is_complete(section: DistributedSection) -> bool:
    return bool(section.coordinator and section.num_processes and section.process_id >= 0)


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def must_agree(name: str, values: Mapping[str, Any]) -> None:
    """ConfigError on every process, naming what differs, where `values` are not the same on all.

    Hashes are compared, so that nothing but them crosses hosts.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    # First the names alone: with other names the second table would have another shape.
    for table in ({"keys": sorted(values)}, values):
        mine = np.stack([_digest(value) for value in table.values()])
        everyone = np.asarray(multihost_utils.process_allgather(mine))
        for rank, theirs in enumerate(everyone):
            differs = [
                key
                for key, found, expected in zip(table, theirs, everyone[0], strict=True)
                if not np.array_equal(found, expected)
            ]
            if differs:
                own = f"; here {differs[0]} is {table[differs[0]]!r}" if table is values else ""
                raise ConfigError(
                    f"process {rank} has another {name} than process 0 ({', '.join(differs[:8])})"
                    f"{own}; start all processes with the same code, configuration and data"
                )


def _digest(value: Any) -> np.ndarray:
    text = json.dumps(value, sort_keys=True, default=str)
    return np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint8)


@contextlib.contextmanager
def ends_for_all(blame: Callable[[], str]) -> Iterator[None]:
    """Among several processes, an error ends this one at once, without JAX's farewell.

    Leaving in order waits for the others, who may be dead, or waiting for us in a collective. They
    notice by the closed connection: an error of JAX that speaks of one, or comes while `blame`
    knows of a process that has fallen silent, ends with 42 and says who. Everything else is 1.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        rank = f"process {jax.process_index()} of {jax.process_count()}"
        reason = " ".join(str(error).split())
        if isinstance(error, jax.errors.JaxRuntimeError) and _CONNECTION.search(reason):
            code = EXIT_RESUMABLE
            line = (
                f"interrupted: {rank}: another process is gone ({blame() or reason[:160]}); "
                "the same command goes on from the last checkpoint"
            )
        elif isinstance(error, ResumableError):
            code, line = EXIT_RESUMABLE, f"interrupted: {rank}: {reason}"
        else:
            if not isinstance(error, UserError):
                print(redact(traceback.format_exc()), file=sys.stderr)
            code, line = 1, f"error: {rank}: {reason}"
        with contextlib.suppress(OSError):  # nobody may be listening any more
            print(redact(line), file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(code)
