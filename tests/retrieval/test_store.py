"""An index is opened whole and for what it was built, or refused in one line with the remedy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import pytest

from coderllm_jax.errors import DataError
from coderllm_jax.records import Chunk
from coderllm_jax.retrieval import store
from coderllm_jax.retrieval.building import build_index
from coderllm_jax.retrieval.store import open_index
from coderllm_jax.retrieval.stored_chunks import hash_chunks
from tests.retrieval.hash_embedder import HashEmbedder

pytest.importorskip("bm25s")
CHUNKS = [Chunk(f"c{n}", f"text {n} of lib.f{n}", "lib 1", f"lib.f{n}") for n in range(4)]
REMEDY = r"build it again with retrieval\.build=update"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "index"
    build_index(folder, CHUNKS, HashEmbedder())
    return folder


@pytest.fixture
def index(built, tmp_path):
    return shutil.copytree(built, tmp_path / "index")


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def is_one_line(error):
    return "\n" not in str(error.value)


@pytest.mark.parametrize("number", range(9))
def test_a_flipped_bit_a_cut_and_a_missing_file_are_refused(index, number):
    path = files_of(index)[number]
    content = path.read_bytes()
    for place in {0, len(content) // 2, len(content) - 1}:
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        if path.name == "manifest.json" and damaged.strip() == content.strip():
            continue  # the last byte is a line break: another space than that is the same JSON
        with pytest.raises(DataError) as error:
            open_index(index)
        assert is_one_line(error)
    path.write_bytes(content[:-1] if path.name != "manifest.json" else content[:-9])
    with pytest.raises(DataError, match=REMEDY) as error:
        open_index(index)
    assert is_one_line(error)
    path.unlink()
    with pytest.raises(DataError, match="retrieval"):
        open_index(index)
    path.write_bytes(content)
    open_index(index)


def test_the_test_above_knows_every_file(built):
    assert len(files_of(built)) == 9


def test_an_added_file_is_refused(index):
    # ScaNN would unpickle a file of this name.
    (index / open_index(index).manifest.generation / "scann_docids.pkl").write_bytes(b"x")
    with pytest.raises(DataError, match=f"scann_docids.pkl does not belong to it; {REMEDY}"):
        open_index(index)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"index_format": 99}, "has index format 99; expected 1"),
        ({"num_chunks": 5}, "another sha256 than it says"),
        ({"thresholds": {"dense": 3}}, "is damaged"),
        ({"files": None}, "is damaged"),
    ],
)
def test_a_changed_manifest_is_refused(index, change, problem):
    values = json.loads((index / "manifest.json").read_text())
    (index / "manifest.json").write_text(json.dumps(values | change))
    with pytest.raises(DataError, match=problem):
        open_index(index)


def test_what_is_no_index_is_said_to_be_none(tmp_path):
    with pytest.raises(DataError, match=r"there is no index; build it with retrieval\.build"):
        open_index(tmp_path)
    (tmp_path / "manifest.json").write_text("[1]")
    with pytest.raises(DataError, match="is no index's"):
        open_index(tmp_path)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (
            HashEmbedder("other"),
            "model was 'hash', is 'other'; fingerprint was '00000000…', is",
        ),
        (HashEmbedder(document_prefix="d: "), r"\(document_prefix was '', is 'd: '\)"),
    ],
)
def test_another_embedding_is_refused(built, other, problem):
    with pytest.raises(DataError, match=problem) as error:
        open_index(built).check_identity(other.identity)
    assert is_one_line(error)
    assert error.match(REMEDY)
    open_index(built).check_identity(HashEmbedder().identity)


@pytest.mark.parametrize(
    "changed",
    [
        CHUNKS[:-1],
        CHUNKS[::-1],
        [*CHUNKS[:-1], Chunk("c3", "text 3 of lib.f3 ", "lib 1", "lib.f3")],
        [*CHUNKS[:-1], Chunk("c3", "text 3 of lib.f3", "lib 2", "lib.f3")],
    ],
)
def test_other_chunks_are_refused(built, changed):
    with pytest.raises(DataError, match=f"built from other chunks.*{REMEDY}"):
        open_index(built).check_chunks(hash_chunks(changed))
    open_index(built).check_chunks(hash_chunks(CHUNKS))


def test_words_split_otherwise_are_refused(built, monkeypatch):
    monkeypatch.setattr(store, "WORDS_VERSION", 99)
    with pytest.raises(DataError, match="splits words as version"):
        open_index(built)


def test_an_index_that_is_replaced_while_it_is_read_is_read_again(index, monkeypatch):
    """The generation of the manifest that was read is gone: the build finished in between."""
    read, calls = store.read_manifest, []

    def read_and_rebuild(folder):
        manifest = read(folder)
        if not calls:
            calls.append(1)
            build_index(folder, CHUNKS[:2], HashEmbedder())
        return manifest

    monkeypatch.setattr(store, "read_manifest", read_and_rebuild)
    assert list(open_index(index).chunks) == CHUNKS[:2]


def test_opening_is_quick_and_loads_no_model(built):
    program = (
        "import sys; from coderllm_jax.retrieval.store import open_index; "
        f"index = open_index({str(built)!r}); index.lexical.score('lib.f1'); "
        "loaded = {'torch', 'sentence_transformers', 'jax', 'tensorflow', 'scann'}; "
        "sys.exit(str(loaded & set(sys.modules)) if loaded & set(sys.modules) else 0)"
    )
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    # 1.3 s on a busy machine; a model would take ten.
    assert time.perf_counter() - started < 8
