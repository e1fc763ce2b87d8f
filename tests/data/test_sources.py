"""Rows survive every kind of file, and each way a file can be wrong ends in one clear line."""

import dataclasses
import gzip
import json
import subprocess
import sys
import textwrap

import pytest

from coderllm_jax.config.training import DataSection
from coderllm_jax.data.files import find_files, iterate_records
from coderllm_jax.data.sources import hash_examples, read_examples
from coderllm_jax.errors import DataError
from coderllm_jax.records import Example

# Unicode, quotes, newlines and what looks like control must come through unharmed.
ROWS = [
    {
        "question": f"What is {name}?",
        "answer": f"É {name}:\n  '\"\\ <eos> \u2028 🙂",
        "symbol": name,
    }
    for name in ("a", "b", "c")
]
EXAMPLES = [
    Example.from_question(row["question"], row["answer"], symbol=row["symbol"]) for row in ROWS
]


def json_lines(rows, **options):
    return "".join(json.dumps(row, **options) + "\n" for row in rows).encode()


def write_jsonl(path, rows):
    path.write_bytes(json_lines(rows, ensure_ascii=False))


def write_gzip(path, rows):
    path.write_bytes(gzip.compress(json_lines(rows)))


def write_array(path, rows):
    path.write_text(json.dumps(rows, indent=1))


def write_with_mark(path, rows):
    path.write_bytes(b"\xef\xbb\xbf" + json_lines(rows).replace(b"\n", b"\r\n\r\n"))


def write_parquet(path, rows):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


def write_array_record(path, rows):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for row in rows:
        writer.write(row if isinstance(row, bytes) else json.dumps(row).encode())
    writer.close()


@pytest.mark.parametrize(
    ("name", "write", "second"),
    [
        ("a.jsonl", write_jsonl, "a.jsonl:2"),
        ("a.jsonl.gz", write_gzip, "a.jsonl.gz:2"),
        ("A.JSON", write_array, "A.JSON[1]"),
        ("a.json", write_jsonl, "a.json:2"),
        ("a.ndjson", write_with_mark, "a.ndjson:3"),
        ("a.parquet", write_parquet, "a.parquet[1]"),
        ("a.arrayrecord", write_array_record, "a.arrayrecord[1]"),
        ("a.array_record-00000-of-00001", write_array_record, "a.array_record-00000-of-00001[1]"),
    ],
)
def test_rows_survive_every_kind_of_file(tmp_path, name, write, second):
    path = tmp_path / name
    write(path, ROWS)
    examples, report = read_examples(str(path))
    assert examples == EXAMPLES
    assert report.locate(1) == f"{tmp_path}/{second}"
    assert report.layouts == ("qa",)
    assert report.sha256 == hash_examples(EXAMPLES)


@pytest.mark.parametrize("write", [write_jsonl, write_parquet, write_array_record])
def test_conversations_survive_too(tmp_path, write):
    names = {
        write_jsonl: "a.jsonl",
        write_parquet: "a.parquet",
        write_array_record: "a.arrayrecord",
    }
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    write(tmp_path / names[write], [{"conversations": turns}])
    examples, report = read_examples(str(tmp_path))
    assert examples == [Example.from_question("q", "a")]
    assert report.layouts == ("sharegpt",)


@pytest.mark.parametrize(
    ("file_format", "blocked"), [("array_record", "tensorflow"), ("tfrecord", "")]
)
def test_rows_of_a_tfds_data_set(tmp_path, monkeypatch, file_format, blocked):
    """A data set that TFDS's own builder writes; those in ArrayRecord are read without TF."""
    # In a process of its own, as TF and its threads would stay in this one.
    pytest.importorskip("tensorflow_datasets")
    program = f"""
        import sys, warnings
        import tensorflow_datasets as tfds
        warnings.simplefilter("ignore")

        text = tfds.features.Text()
        turns = tfds.features.Sequence({{"from": text, "value": text}})

        class TinyQuestions(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = tfds.features.FeaturesDict({{"conversations": turns}})
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, manager):
                return {{"train": self._generate_examples(3), "test": self._generate_examples(1)}}

            def _generate_examples(self, count):
                for i in range(count):
                    question = {{"from": "human", "value": f"é{{i}}?"}}
                    yield i, {{"conversations": [question, {{"from": "gpt", "value": f"{{i}}"}}]}}

        builder = TinyQuestions(data_dir={str(tmp_path)!r}, file_format={file_format!r})
        builder.download_and_prepare()

        from coderllm_jax.data.sources import read_examples
        from coderllm_jax.errors import DataError

        examples, report = read_examples("tfds://tiny_questions")
        assert sorted(e.question for e in examples) == ["é0?", "é1?", "é2?"], examples
        assert all(e.question == f"é{{e.answer}}?" for e in examples)
        assert report.locate(1) == "tfds://tiny_questions[1]"
        again, _ = read_examples("tfds://tiny_questions:1.0.0:train")
        assert again == examples
        assert len(read_examples("tfds://tiny_questions:train[:2]")[0]) == 2
        assert len(read_examples("tfds://tiny_questions:test")[0]) == 1
        for path, part in [("tiny_questions:trian", "trian"), ("no_such_set", "not found")]:
            try:
                read_examples(f"tfds://{{path}}")
            except DataError as error:
                assert str(error).startswith(f"tfds://{{path}}: not readable through TFDS"), error
                assert part in str(error) and "\\n" not in str(error), error
            else:
                raise AssertionError(path)
        assert not {blocked!r} or {blocked!r} not in sys.modules
    """
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)


def test_a_folder_is_read_in_sorted_order_without_what_is_not_data(tmp_path):
    (tmp_path / "b").mkdir()
    write_jsonl(tmp_path / "b" / "x.jsonl", ROWS[2:])
    write_parquet(tmp_path / "a.parquet", ROWS[:1])
    write_array(tmp_path / "b.json", ROWS[1:2])
    for name in ("README.md", ".hidden.jsonl", "_SUCCESS.json"):
        (tmp_path / name).write_text("not data")
    examples, report = read_examples(str(tmp_path))
    assert [example.symbol for example in examples] == ["a", "c", "b"]
    assert [report.locate(i) for i in range(3)] == [
        f"{tmp_path}/a.parquet[0]",
        f"{tmp_path}/b/x.jsonl:1",
        f"{tmp_path}/b.json[0]",
    ]


def test_a_pattern_chooses_files(tmp_path):
    for name in "abc":
        write_jsonl(tmp_path / f"{name}.jsonl", ROWS)
    assert [file.name[-7:] for file in find_files(f"{tmp_path}/[ac].jsonl")] == [
        "a.jsonl",
        "c.jsonl",
    ]


def test_layouts_may_differ_between_files_but_not_within_one(tmp_path):
    alpaca = {"instruction": "i", "input": "", "output": "o"}
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    write_jsonl(tmp_path / "b.jsonl", [alpaca])
    examples, report = read_examples(str(tmp_path))
    assert len(examples) == 4
    assert report.to_dict()["files"] == {
        f"{tmp_path}/a.jsonl": "qa",
        f"{tmp_path}/b.jsonl": "alpaca",
    }
    write_jsonl(tmp_path / "c.jsonl", [alpaca, ROWS[0]])
    with pytest.raises(DataError, match=r"c\.jsonl:2: 'instruction' is missing; .*data\.format=qa"):
        read_examples(str(tmp_path))


def test_a_forced_layout_is_used(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [ROWS[0] | {"messages": []}])
    with pytest.raises(DataError, match="'messages' is"):
        read_examples(str(tmp_path), DataSection(format="messages"))


def test_the_hash_is_of_the_examples_and_not_of_their_files(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    whole = read_examples(str(tmp_path / "a.jsonl"))[1].sha256
    (tmp_path / "split").mkdir()
    write_jsonl(tmp_path / "split" / "1.jsonl", ROWS[:1])
    write_parquet(tmp_path / "split" / "2.parquet", ROWS[1:])
    assert read_examples(str(tmp_path / "split"))[1].sha256 == whole
    assert hash_examples(EXAMPLES[::-1]) != whole
    for field in ("source", "symbol", "kind", "license"):
        changed = [dataclasses.replace(EXAMPLES[0], **{field: "x"}), *EXAMPLES[1:]]
        assert hash_examples(changed) != whole
    moved = [Example.from_question("q", "ab"), Example.from_question("q", "c")]
    assert hash_examples(moved) != hash_examples(
        [Example.from_question("qa", "b"), Example.from_question("q", "c")]
    )


GOOD = json.dumps(ROWS[0]).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"question": "q", "answer": ""}', "'answer' is empty; drop the row or set data.allow_e"),
        (b'{"question": "q", "answer": "a"', r"not JSON \(Expecting ',' delimiter, column 32\)"),
        (b'{"question": "caf\xe9"}', r"not UTF-8 \(byte 0xe9 at byte 18\); save the file as UTF-8"),
        (b"\xff\xfe{", "not UTF-8 .byte 0xff"),
        (b"[1, 2]", "the row is a list; expected an object .* belongs in a .json file"),
        (b'"text"', "the row is a str; expected an object"),
        (b'{"question": "\\ud83d", "answer": "a"}', "half of a surrogate pair"),
        (b"[" * 100_000, "not readable as JSON|not JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not readable as JSON .*; drop the row"),
    ],
)
def test_a_bad_row_names_file_line_and_remedy(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD)
    with pytest.raises(DataError, match=message) as caught:
        read_examples(str(path))
    assert str(caught.value).startswith(f"{path}:3: ")
    assert "\n" not in str(caught.value)

    examples, report = read_examples(str(path), DataSection(on_bad_row="skip"))
    assert len(examples) == 2
    assert report.locate(1) == f"{path}:4"
    assert report.num_bad_rows == 1
    assert report.bad_rows == (str(caught.value),)


def test_a_bad_record_names_its_number(tmp_path):
    write_array_record(tmp_path / "a.arrayrecord", [ROWS[0], b"\x0a\x03abc"])
    with pytest.raises(DataError, match=r"a.arrayrecord\[1\]: not JSON"):
        read_examples(str(tmp_path))
    (tmp_path / "a.arrayrecord").unlink()
    write_parquet(tmp_path / "a.parquet", [ROWS[0], ROWS[1] | {"answer": None}])
    with pytest.raises(DataError, match=r"a.parquet\[1\]: 'answer' is None"):
        read_examples(str(tmp_path))


def test_skipping_ends_at_the_limit(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(GOOD + b"{}\n" * 2)
    options = DataSection(on_bad_row="skip", bad_row_limit=4)
    assert read_examples(str(tmp_path), options)[1].num_bad_rows == 4
    options = DataSection(on_bad_row="skip", bad_row_limit=3)
    message = "4 bad rows, more than data.bad_row_limit=3; .*a.jsonl:2: 'question' is missing"
    with pytest.raises(DataError, match=message):
        read_examples(str(tmp_path), options)


def test_nothing_but_bad_rows_is_an_error_even_when_skipping(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    with pytest.raises(DataError, match=r"all 1 rows are bad; .*a\.jsonl:1: the row has no"):
        read_examples(str(tmp_path), DataSection(on_bad_row="skip"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl: has no rows; expected at least one"),
        ("a.jsonl", b"\n \n", "a.jsonl: has no rows"),
        ("a.json", b"", "a.json: has no rows"),
        ("a.json", b" []", "a.json: has no rows"),
        ("a.json", b"[\n{},\n", r"a.json: not JSON \(.*line 3\)"),
        ("a.json", b'["caf\xe9"]', "a.json: not UTF-8"),
        ("a.jsonl.gz", b"not gzip", "a.jsonl.gz: damaged gzip"),
        ("a.jsonl.gz", gzip.compress(GOOD * 9)[:-9], "a.jsonl.gz: damaged gzip"),
        ("a.json.gz", b"not gzip", "a.json.gz: damaged gzip"),
        ("a.parquet", b"PAR1nonsense", "a.parquet: not readable as Parquet"),
        ("a.parquet", b"", "a.parquet: not readable as Parquet"),
        ("a.arrayrecord", b"nonsense", "a.arrayrecord: not readable as ArrayRecord"),
        ("a.arrayrecord", b"", "a.arrayrecord: not readable as ArrayRecord"),
        ("a.csv", b"q,a", "a.csv: cannot tell what it holds; expected .jsonl"),
    ],
)
def test_a_damaged_file_is_an_error_even_when_skipping(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_examples(str(tmp_path / name), DataSection(on_bad_row="skip"))
    assert "\n" not in str(caught.value)


def test_paths_that_lead_nowhere(tmp_path):
    for path, message in [
        ("", "data.path is empty"),
        (f"{tmp_path}/none.jsonl", "none.jsonl: no such file or folder; check data.path"),
        (f"{tmp_path}", "the folder has no data files; expected .jsonl"),
        (f"{tmp_path}/*.jsonl", "the pattern matches no data files"),
        ("tfds://", "expected tfds://name or tfds://name:split"),
    ]:
        with pytest.raises(DataError, match=message):
            read_examples(path)


def test_reading_a_file_again_starts_again(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    (file,) = find_files(str(tmp_path))
    assert [list(iterate_records(file)), list(iterate_records(file))][1][2].fields() == ROWS[2]


def test_jsonl_is_read_without_any_heavy_library(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    program = (
        "import sys; from coderllm_jax.data.sources import read_examples; "
        f"read_examples({str(tmp_path)!r}); "
        "heavy = {'jax', 'grain', 'tensorflow', 'torch', 'pyarrow', 'keras'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
