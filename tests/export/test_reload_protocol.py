"""What one process asks and the other answers comes over whole and in order."""

from __future__ import annotations

import sys

import numpy as np

from coderllm_jax.export.reload_protocol import Job, Reply, answer, read_reply, write_job

JOB = Job(
    artifact="out/gguf/m.gguf",
    # More than ten: by name, 10 stands before 2.
    prompts=[[2, i] for i in range(12)],
    positions=[[0, 1]] * 12,
    texts=["naïve 日本 🙂", "\tx\n"],
    chats=[[{"role": "user", "content": "Hi"}]],
    chat_texts=["<start_of_turn>user\nHi"],
    base="out/base",
    base_is_multimodal=True,
)


def test_a_job_and_its_reply(tmp_path, monkeypatch):
    asked = []

    def reload(job):
        asked.append(job)
        logits = [np.full((2, 3), prompt[1], np.float32) for prompt in job.prompts]
        ids = np.arange(3)  # as some libraries give them
        return Reply({"library": "1.2"}, logits, [ids, ids[:1]], [ids[::-1]])

    write_job(tmp_path, JOB)
    monkeypatch.setattr(sys, "argv", ["reload", str(tmp_path)])
    answer(reload)
    assert asked == [JOB]
    reply = read_reply(tmp_path)
    assert reply.versions == {"library": "1.2"}
    assert [float(logits[1, 2]) for logits in reply.logits] == list(range(12))
    assert all(logits.dtype == np.float32 for logits in reply.logits)
    assert (reply.text_ids, reply.chat_ids) == ([[0, 1, 2], [0]], [[2, 1, 0]])
