"""How several processes come to one answer: process 0 decides, or all are asked.

Every process calls the same function at the same place; with one process nothing is sent. The
messages are computations on the devices, so they wait for the steps that were dispatched before
them, and only the thread that dispatches steps may call: another order in another process hangs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from coderllm_jax.errors import RunError, UserError

T = TypeVar("T")


def first_decides(decide: Callable[[], T]) -> T:
    """What process 0 answers, in every process. Only process 0 calls `decide`.

    Its UserError is a RunError of the same words in every process.

    The answer is sent as JSON: the others get a list where process 0 gave a tuple.
    """
    if jax.process_count() == 1:
        return decide()
    answer: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            answer = {"value": decide()}
        except UserError as error:
            answer = {"error": str(error)}
    text = json.dumps(answer).encode()
    with jax.transfer_guard("allow"):  # the loop forbids copies that nobody asked for
        size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
        padded = np.zeros(size, np.uint8)
        if jax.process_index() == 0:
            padded[:] = np.frombuffer(text, np.uint8)
        sent = multihost_utils.broadcast_one_to_all(padded)
    answer = json.loads(np.asarray(sent).astype(np.uint8).tobytes())
    if "error" in answer:
        raise RunError(answer["error"])
    return answer["value"]


def each_says(answer: bool) -> list[bool]:
    """The answers of all processes, by their index."""
    if jax.process_count() == 1:
        return [answer]
    with jax.transfer_guard("allow"):
        return multihost_utils.process_allgather(np.array(answer)).tolist()
