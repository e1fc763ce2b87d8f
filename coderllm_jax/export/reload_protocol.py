"""What passes between the export and the process in which another library loads what was written.

    job/                                           this process            the other one
      job.json      artifact, base, prompts, …     writes ───────────────► reads
      reply.json    versions, ids                  reads  ◄─────────────── writes
      logits.npz    0, 1, 2: float32 [P, V]

A process of its own, because torch, TensorFlow and llama.cpp have no place in ours, and because
whatever they take is given back. Nothing heavy is imported here: both sides import it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_JOB, _REPLY, _LOGITS = "job.json", "reply.json", "logits.npz"


@dataclasses.dataclass(frozen=True)
class Job:
    """What is loaded and asked.

    artifact: the folder or file; base: the text model's folder that an adapter is put onto, or "";
    base_is_multimodal: whether the adapter is for that model as a part of a multimodal one.
    prompts: ids, and `positions` in each whose logits are wanted. texts: to be made ids of, with
    what stands before a text. chats: conversations as role and content; chat_texts: the same as
    one text without <bos>, for libraries that know no chat template.
    """

    artifact: str
    prompts: Sequence[Sequence[int]]
    positions: Sequence[Sequence[int]]
    texts: Sequence[str]
    chats: Sequence[Sequence[Mapping[str, str]]]
    chat_texts: Sequence[str]
    base: str = ""
    base_is_multimodal: bool = False


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the other library made of it. `versions`: package → version."""

    versions: Mapping[str, str]
    logits: Sequence[npt.NDArray[np.float32]]
    text_ids: Sequence[Sequence[int]]
    chat_ids: Sequence[Sequence[int]]


def write_job(folder: Path, job: Job) -> None:
    """Puts the job where the other process looks for it."""
    (folder / _JOB).write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")


def read_reply(folder: Path) -> Reply:
    """What the other process left."""
    content = json.loads((folder / _REPLY).read_text(encoding="utf-8"))
    with np.load(folder / _LOGITS) as stored:
        logits = [stored[str(i)] for i in range(len(stored.files))]
    return Reply(logits=logits, **content)


def answer(reload: Callable[[Job], Reply]) -> None:
    """The body of the other process, whose one argument is the folder."""
    folder = Path(sys.argv[1])
    reply = reload(Job(**json.loads((folder / _JOB).read_text(encoding="utf-8"))))
    arrays: dict[str, Any] = {str(i): values for i, values in enumerate(reply.logits)}
    np.savez(folder / _LOGITS, **arrays)
    content = {
        "versions": dict(reply.versions),
        "text_ids": [list(map(int, ids)) for ids in reply.text_ids],
        "chat_ids": [list(map(int, ids)) for ids in reply.chat_ids],
    }
    (folder / _REPLY).write_text(json.dumps(content), encoding="utf-8")
