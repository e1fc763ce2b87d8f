"""Only what is new is embedded: after changes, after a kill, after damage to what was kept."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coderllm_jax.errors import DataError
from coderllm_jax.records import Chunk, Example
from coderllm_jax.retrieval import building
from coderllm_jax.retrieval.building import build_index, update_index
from coderllm_jax.retrieval.kept_embeddings import KeptEmbeddings, key_of
from coderllm_jax.retrieval.relevance import Pair, pairs_from_examples
from coderllm_jax.retrieval.store import open_index
from coderllm_jax.retrieval.vectors import scann_problem
from tests.retrieval.hash_embedder import HashEmbedder

pytest.importorskip("bm25s")
ROOT = Path(__file__).resolve().parents[2]


def make_chunks(count: int) -> list[Chunk]:
    return [
        Chunk(f"lib.f{n}#0", f"lib.f{n}(x)\nWord{n} and word{n + 1}.", "lib 1", f"lib.f{n}")
        for n in range(count)
    ]


CHUNKS = make_chunks(5)


def test_an_index_holds_its_chunks_and_their_vectors(tmp_path):
    embedder = HashEmbedder()
    report = build_index(tmp_path, CHUNKS, embedder)
    index = open_index(tmp_path)
    assert (report.num_chunks, report.num_embedded, report.was_current) == (5, 5, False)
    assert list(index.chunks) == CHUNKS
    assert index.chunks[-1] == CHUNKS[-1]
    assert index.chunks[1:3] == CHUNKS[1:3]
    np.testing.assert_array_equal(
        index.vectors_ND, HashEmbedder().embed_documents([chunk.text for chunk in CHUNKS])
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(".lock", index.manifest.generation, "manifest.json"),
    ]


def test_an_index_that_is_there_is_not_built_again(tmp_path):
    build_index(tmp_path, CHUNKS, HashEmbedder())
    before = (tmp_path / "manifest.json").read_bytes()
    embedder = HashEmbedder()
    assert build_index(tmp_path, CHUNKS, embedder).was_current
    assert embedder.embedded == []
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_only_what_changed_is_embedded(tmp_path):
    build_index(tmp_path, CHUNKS, HashEmbedder())
    changed = dataclasses.replace(CHUNKS[2], text="Another text.")
    added = Chunk("new#0", "A new one.", "lib 1")
    now = [CHUNKS[4], changed, CHUNKS[0], added]
    embedder = HashEmbedder()
    report = build_index(tmp_path, now, embedder)
    assert embedder.embedded == ["Another text.", "A new one."]
    assert (report.num_embedded, report.num_reused) == (2, 2)
    index = open_index(tmp_path)
    assert list(index.chunks) == now
    np.testing.assert_array_equal(
        index.vectors_ND, HashEmbedder().embed_documents([chunk.text for chunk in now])
    )
    assert index.lexical.score("another").all_N.argmax() == 1


def test_update_adds_changes_and_deletes(tmp_path):
    build_index(tmp_path, CHUNKS, HashEmbedder())
    embedder = HashEmbedder()
    changed = dataclasses.replace(CHUNKS[1], text="Another text.")
    added = Chunk("new#0", "A new one.", "lib 1")
    update_index(tmp_path, embedder, put=[changed, added], remove=[CHUNKS[3].id])
    assert embedder.embedded == ["Another text.", "A new one."]
    assert list(open_index(tmp_path).chunks) == [CHUNKS[0], changed, CHUNKS[2], CHUNKS[4], added]
    with pytest.raises(DataError, match="has no chunk 'nowhere'"):
        update_index(tmp_path, embedder, remove=["nowhere"])
    with pytest.raises(DataError, match="another embedding"):
        update_index(tmp_path, HashEmbedder("other"), put=[added])


@pytest.mark.parametrize("other", [HashEmbedder("other"), HashEmbedder(document_prefix="d: ")])
def test_another_model_or_prefix_embeds_all_again(tmp_path, other):
    build_index(tmp_path, CHUNKS, HashEmbedder())
    build_index(tmp_path, CHUNKS, other)
    assert len(other.embedded) == 5
    open_index(tmp_path).check_identity(other.identity)


def test_equal_texts_are_embedded_once(tmp_path):
    chunks = [dataclasses.replace(CHUNKS[0], id=f"{number}") for number in range(3)]
    embedder = HashEmbedder()
    build_index(tmp_path, chunks, embedder)
    assert len(embedder.embedded) == 1
    assert len(open_index(tmp_path).vectors_ND) == 3


def test_a_killed_build_goes_on_with_what_it_has_kept(tmp_path):
    rows = [json.dumps(dataclasses.asdict(chunk)) for chunk in make_chunks(200)]
    (tmp_path / "chunks.jsonl").write_text("\n".join(rows))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.retrieval.killed_build", "index", "chunks.jsonl"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "64 of 200\n"
        assert process.stdout.readline() == "128 of 200\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    index = tmp_path / "index"
    with pytest.raises(DataError, match="there is no index"):
        open_index(index)
    embedder = HashEmbedder()
    report = build_index(index, make_chunks(200), embedder)
    assert (report.num_embedded, len(embedder.embedded)) == (72, 72)
    np.testing.assert_array_equal(
        open_index(index).vectors_ND,
        HashEmbedder().embed_documents([chunk.text for chunk in make_chunks(200)]),
    )
    assert not list(index.glob("embedded-*"))


@pytest.mark.parametrize("moment", ["_write", "_commit", "_clean"])
def test_a_build_that_fails_leaves_the_old_index(tmp_path, monkeypatch, moment):
    build_index(tmp_path, CHUNKS, HashEmbedder())

    def fail(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(building, moment, fail)
        with pytest.raises(KeyboardInterrupt):
            build_index(tmp_path, make_chunks(8), HashEmbedder())
    assert len(open_index(tmp_path).chunks) == (8 if moment == "_clean" else 5)
    embedder = HashEmbedder()
    build_index(tmp_path, make_chunks(8), embedder)
    assert embedder.embedded == []
    assert list(open_index(tmp_path).chunks) == make_chunks(8)


def test_damage_to_what_is_there_or_kept_is_embedded_again(tmp_path, caplog):
    build_index(tmp_path, CHUNKS, HashEmbedder())
    vectors = tmp_path / open_index(tmp_path).manifest.generation / "vectors.npy"
    content = bytearray(vectors.read_bytes())
    content[-1] ^= 1
    vectors.write_bytes(content)
    embedder = HashEmbedder()
    build_index(tmp_path, CHUNKS, embedder)
    assert len(embedder.embedded) == 5
    assert "vectors.npy has another sha256" in caplog.text
    assert list(open_index(tmp_path).chunks) == CHUNKS


def test_kept_batches_are_whole_or_passed_over(tmp_path, caplog):
    kept = KeptEmbeddings(tmp_path, {"model": "a"})
    first, second = np.eye(2, 4, dtype=np.float32), np.ones((1, 4), np.float32)
    kept.keep([key_of("x"), key_of("y")], first)
    kept.keep([key_of("z")], second)
    found = dict(KeptEmbeddings(tmp_path, {"model": "a"}))
    assert set(found) == {key_of("x"), key_of("y"), key_of("z")}
    np.testing.assert_array_equal(found[key_of("y")], first[1])
    assert not dict(KeptEmbeddings(tmp_path, {"model": "b"}))
    for path in tmp_path.glob("*/*.npz"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    assert not dict(KeptEmbeddings(tmp_path, {"model": "a"}))
    assert caplog.text.count("is damaged") == 2


def test_two_builds_do_not_meet(tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="being built by another process"):
            build_index(tmp_path, CHUNKS, HashEmbedder())


def test_anothers_folder_is_left_alone(tmp_path):
    (tmp_path / "manifest.json").write_text('{"status": "trained"}')
    with pytest.raises(DataError, match=r"is no index's; name another retrieval\.index_dir"):
        build_index(tmp_path, CHUNKS, HashEmbedder())
    assert (tmp_path / "manifest.json").read_text() == '{"status": "trained"}'


@pytest.mark.parametrize(
    ("chunks", "problem"),
    [([], "no chunks to index"), ([CHUNKS[0], CHUNKS[0]], r"two chunks have the id 'lib\.f0#0'")],
)
def test_wrong_chunks_are_refused(tmp_path, chunks, problem):
    with pytest.raises(DataError, match=problem):
        build_index(tmp_path, chunks, HashEmbedder())


def test_vectors_that_are_none_are_refused(tmp_path):
    class Broken(HashEmbedder):
        def embed_documents(self, texts):
            return super().embed_documents(texts) * np.nan

    with pytest.raises(DataError, match="expected 5 of length 1"):
        build_index(tmp_path, CHUNKS, Broken())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the index cannot be written"):
        build_index(tmp_path / "file" / "index", CHUNKS, HashEmbedder())


def test_half_a_surrogate_pair_survives(tmp_path):
    odd = Chunk("odd#0", "half \ud800 a pair", "lib 1")
    build_index(tmp_path, [odd], HashEmbedder())
    assert open_index(tmp_path).chunks[0] == odd


@pytest.mark.skipif(bool(scann_problem()), reason=scann_problem())
def test_many_vectors_are_searched_by_scann(tmp_path):
    chunks = make_chunks(120)
    build_index(tmp_path, chunks, HashEmbedder(), exact_below=100)
    index = open_index(tmp_path)
    assert type(index.nearest).__name__ == "ScannIndex"
    vectors_ND = HashEmbedder().embed_documents([chunk.text for chunk in chunks[:20]])
    assert index.nearest.search(vectors_ND, 1).positions_QK[:, 0].tolist() == list(range(20))
    build_index(tmp_path, chunks, HashEmbedder())
    assert type(open_index(tmp_path).nearest).__name__ == "ExactIndex"


def test_without_scann_all_vectors_are_looked_at_and_it_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(building, "scann_problem", lambda: "ScaNN runs on Linux only")
    build_index(tmp_path, CHUNKS, HashEmbedder(), exact_below=2)
    index = open_index(tmp_path)
    assert type(index.nearest).__name__ == "ExactIndex"
    assert index.manifest.note == "ScaNN runs on Linux only"
    assert "all 5 vectors will be looked at" in caplog.text


def test_training_questions_are_paired_with_their_symbols_chunks():
    examples = [
        Example.from_question("q1", "a", source="lib 1", symbol="lib.f1"),
        Example.from_question("q2", "a", source="lib 2", symbol="lib.f1"),
        Example.from_question("q3", "a", source="lib 1", symbol="lib.g"),
        Example.from_question("q4", "a"),
    ]
    second = dataclasses.replace(CHUNKS[1], id="lib.f1#1")
    assert pairs_from_examples(examples, [*CHUNKS, second, Chunk("d", "t", "")]) == [
        Pair("q1", ("lib.f1#0", "lib.f1#1"))
    ]
    many = [dataclasses.replace(examples[0]) for _ in range(1000)]
    assert len(pairs_from_examples(many, CHUNKS)) == 200


def test_new_pairs_calibrate_anew_and_embed_no_chunk(tmp_path):
    build_index(tmp_path, CHUNKS, HashEmbedder())
    assert open_index(tmp_path).thresholds == (None, None)
    embedder = HashEmbedder()
    pairs = [Pair(f"what is lib.f{n} word{n}", (f"lib.f{n}#0",)) for n in range(4)]
    build_index(tmp_path, CHUNKS, embedder, pairs=pairs)
    assert embedder.embedded == []
    thresholds = open_index(tmp_path).thresholds
    assert thresholds.dense is not None
    assert thresholds.lexical is not None
    assert thresholds.dense.num_pairs == 4
