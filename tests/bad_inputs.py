"""The table of bad inputs: what is wrong, how to make it, and the one line that a person sees.

In a line `~` stands for the folder that the case lies in, and `…` for words of a library that
differ between its versions. `tests/test_bad_input.py` runs them.
"""

from __future__ import annotations

import functools
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from coderllm_jax.data.tokenizer import build_sentencepiece
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.tiny import random_leaves
from tests.model.test_huggingface import CONFIG, huggingface_tensors


class Case(NamedTuple):
    """`prepare` spoils something in the folder and gives the options that lead to it."""

    name: str
    prepare: Callable[[Path], list[str]]
    line: str


def rows(*lines: str | bytes, name: str = "rows.jsonl") -> Callable[[Path], list[str]]:
    """A data file of these lines."""

    def prepare(here: Path) -> list[str]:
        encoded = [line.encode() if isinstance(line, str) else line for line in lines]
        (here / name).write_bytes(b"\n".join(encoded))
        return [f"--config.data.path={here / name}"]

    return prepare


def good_rows(number: int = 3) -> list[str]:
    return [json.dumps({"question": f"What is f{i}?", "answer": "It adds."}) for i in range(number)]


def data(change: Callable[[Path], object], name: str) -> Callable[[Path], list[str]]:
    """Whatever `change` makes of `here / name`."""

    def prepare(here: Path) -> list[str]:
        change(here / name)
        return [f"--config.data.path={here / name}"]

    return prepare


def parquet(**columns: list) -> Callable[[Path], object]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return lambda path: pq.write_table(pa.table(columns), path)


def damaged_parquet(path: Path) -> None:
    parquet(question=["a"] * 50, answer=["b"] * 50)(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    path.write_bytes(content)


def damaged_array_record(path: Path) -> None:
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for line in good_rows():
        writer.write(line.encode())
    writer.close()
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])


def make_folder(path: Path, *files: str) -> None:
    path.mkdir()
    for name in files:
        (path / name).write_text("x")


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def model(change: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """Good rows and a copy of a good Hugging Face folder, changed."""

    def prepare(here: Path) -> list[str]:
        change(here / "model")
        return [*rows(*good_rows())(here), f"--config.model_name={here / 'model'}"]

    return prepare


def config(**changes: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(CONFIG | changes))


def tensors(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def rewrite(folder: Path) -> None:
        found = huggingface_tensors(dict(random_leaves(TINY, seed=0)))
        change(found)
        safetensors.numpy.save_file(found, folder / "model.safetensors")

    return rewrite


def cut(name: str, kept: float) -> Callable[[Path], object]:
    def truncate(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * kept)])

    return truncate


def wild_header(folder: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    content = len(header).to_bytes(8, "little") + header.encode() + b"\0" * 64
    (folder / "model.safetensors").write_bytes(content)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def huge_tokenizer(folder: Path) -> None:
    with (folder / "tokenizer.model").open("wb") as file:
        file.truncate(1 << 30)


def run_option(*options: str) -> Callable[[Path], list[str]]:
    """Good rows and these options, in which `~` is the folder."""
    return lambda here: [
        *rows(*good_rows())(here),
        *(option.replace("~", str(here)) for option in options),
    ]


def workdir(change: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """Good rows and a workdir of which something is there already."""

    def prepare(here: Path) -> list[str]:
        change(here / "run")
        return rows(*good_rows())(here)

    return prepare


def long_answer(here: Path, length: int = 500) -> list[str]:
    row = json.dumps({"question": "a", "answer": "b" * length})
    return [*rows(*good_rows(), row)(here), "--config.data.on_long_example=error"]


def other_vocabulary(folder: Path) -> None:
    """A tokenizer of more pieces than the embedding has rows."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    kinds = [3] * len(pieces) + [6] * 256 + [1] * 700
    pieces += [f"<0x{byte:02X}>" for byte in range(256)] + [f"w{i}" for i in range(700)]
    proto = build_sentencepiece(pieces, [0.0] * len(pieces), kinds)
    (folder / "tokenizer.model").write_bytes(proto)


def json_tokenizer(content: bytes) -> Callable[[Path], object]:
    def replace(folder: Path) -> None:
        (folder / "tokenizer.model").unlink()
        (folder / "tokenizer.json").write_bytes(content)

    return replace


DATA_CASES = [
    Case(
        "missing file",
        lambda here: [f"--config.data.path={here / 'none.jsonl'}"],
        "~/none.jsonl: no such file or folder; check data.path",
    ),
    Case(
        "empty file",
        rows(""),
        "~/rows.jsonl: has no rows; expected at least one; fill or remove it",
    ),
    Case(
        "blank lines only",
        rows("", "  ", ""),
        "~/rows.jsonl: has no rows; expected at least one; fill or remove it",
    ),
    Case(
        "not JSON",
        rows(*good_rows(), "{'question': 1}"),
        "~/rows.jsonl:4: not JSON (Expecting property name enclosed in double "
        "quotes, column 2); expected one object a row; mend or drop the row",
    ),
    Case(
        "cut in the middle",
        rows(*good_rows(), '{"question": "a", "ans'),
        "~/rows.jsonl:4: not JSON (Unterminated string starting at, column "
        "19); expected one object a row; mend or drop the row",
    ),
    Case(
        "not UTF-8",
        rows(*good_rows(), '{"question": "é", "answer": "b"}'.encode("latin-1")),
        "~/rows.jsonl:4: not UTF-8 (byte 0xe9 at byte 15); save the file as UTF-8",
    ),
    Case(
        "UTF-16 with a mark",
        rows("\n".join(good_rows()).encode("utf-16")),
        "~/rows.jsonl:1: holds NUL bytes, as UTF-16 does; save the file as UTF-8",
    ),
    Case(
        "UTF-16 without a mark",
        rows("\n".join(good_rows()).encode("utf-16-le")),
        "~/rows.jsonl:1: holds NUL bytes, as UTF-16 does; save the file as UTF-8",
    ),
    Case(
        "NUL bytes",
        rows(*good_rows(), b"\0" * 40),
        "~/rows.jsonl:4: holds NUL bytes, as UTF-16 does; save the file as UTF-8",
    ),
    Case(
        "a huge line",
        rows(*good_rows(), "x" * (8 << 20)),
        "~/rows.jsonl:4: not JSON (Expecting value, column 1); expected one "
        "object a row; mend or drop the row",
    ),
    Case(
        "deep nesting",
        rows(*good_rows(), "[" * 100_000),
        "~/rows.jsonl:4: not readable as JSON (…); drop the row",
    ),
    Case(
        "a number for an answer",
        rows(*good_rows(), '{"question": "a", "answer": 5}'),
        "~/rows.jsonl:4: 'answer' is 5 (int); expected a string; quote it or drop the row",
    ),
    Case(
        "null for an answer",
        rows(*good_rows(), '{"question": "a", "answer": null}'),
        "~/rows.jsonl:4: 'answer' is None (NoneType); expected a string; quote it or drop the row",
    ),
    Case(
        "a list for a row",
        rows(*good_rows(), "[1, 2]"),
        "~/rows.jsonl:4: the row is a list; expected an object with keys such "
        "as question and answer; a JSON array of rows belongs in a .json file",
    ),
    Case(
        "a column misspelt",
        rows('{"question": "a", "anwser": "b"}'),
        "~/rows.jsonl:1: 'answer' is missing; the row has the keys 'question', "
        "'anwser'; did you mean it by 'anwser'?",
    ),
    Case(
        "a column missing",
        rows(*good_rows(), '{"question": "a"}'),
        "~/rows.jsonl:4: 'answer' is missing; the row has the keys 'question'; "
        "add it or drop the row",
    ),
    Case(
        "no column known",
        rows('{"text": "a"}'),
        "~/rows.jsonl:1: the row has the keys 'text'; expected question, "
        "answer (qa); instruction, output (alpaca); messages (messages); "
        "conversations (sharegpt); rename the row's keys",
    ),
    Case(
        "empty answer",
        rows(*good_rows(), '{"question": "a", "answer": " "}'),
        "~/rows.jsonl:4: 'answer' is empty; drop the row or set data.allow_empty=True",
    ),
    Case(
        "answer longer than the window",
        long_answer,
        "~/rows.jsonl:4: takes 517 positions; expected at most "
        "data.sequence_length=512; raise it to 517, or set "
        "data.on_long_example to drop or truncate",
    ),
    Case(
        "an answer of 8 MB",
        functools.partial(long_answer, length=8 << 20),
        "~/rows.jsonl:4: takes 8388625 positions; expected at most "
        "data.sequence_length=512; raise it to 8388625, or set "
        "data.on_long_example to drop or truncate",
    ),
    Case(
        "half a surrogate pair",
        rows(*good_rows(), r'{"question": "\ud800", "answer": "b"}'),
        "~/rows.jsonl:4: 'question' contains half of a surrogate pair (\\ud800 "
        "to \\udfff); expected Unicode text; write the character in full or "
        "drop the row",
    ),
    Case(
        "damaged gzip",
        rows(gzip.compress(b"x" * 999)[:20], name="rows.jsonl.gz"),
        "~/rows.jsonl.gz: damaged gzip (…); fetch or write the file again",
    ),
    Case(
        "gzip in name only",
        rows(*good_rows(), name="rows.jsonl.gz"),
        "~/rows.jsonl.gz: damaged gzip (…); fetch or write the file again",
    ),
    Case(
        "Parquet cut",
        data(damaged_parquet, "rows.parquet"),
        "~/rows.parquet: not readable as Parquet (…); write the file again",
    ),
    Case(
        "Parquet in name only",
        rows(*good_rows(), name="rows.parquet"),
        "~/rows.parquet: not readable as Parquet (…); write the file again",
    ),
    Case(
        "Parquet with another type",
        data(parquet(question=["a"], answer=[1.5]), "rows.parquet"),
        "~/rows.parquet[0]: 'answer' is 1.5 (float); expected a string; quote it or drop the row",
    ),
    Case(
        "ArrayRecord cut",
        data(damaged_array_record, "rows.arrayrecord"),
        "~/rows.arrayrecord: not readable as ArrayRecord (it is cut or was "
        "overwritten); write the file again",
    ),
    Case(
        "ArrayRecord in name only",
        rows(*good_rows(), name="rows.arrayrecord"),
        "~/rows.arrayrecord: not readable as ArrayRecord (…); write the file again",
    ),
    Case(
        "folder without rows",
        data(lambda path: make_folder(path, "README"), "folder"),
        "~/folder: the folder has no data files; expected .jsonl, .json (each "
        "also .gz), .parquet, .arrayrecord",
    ),
    Case(
        "empty folder",
        data(make_folder, "folder"),
        "~/folder: the folder has no data files; expected .jsonl, .json (each "
        "also .gz), .parquet, .arrayrecord",
    ),
    Case(
        "a device",
        lambda here: ["--config.data.path=/dev/zero"],
        "/dev/zero: is neither a file nor a folder; name one of them in data.path",
    ),
    Case(
        "a link to itself",
        data(make_loop, "rows.jsonl"),
        "~/rows.jsonl: is a link that leads nowhere; mend it or check data.path",
    ),
    Case(
        "a link to nothing",
        data(lambda path: path.symlink_to("gone"), "rows.jsonl"),
        "~/rows.jsonl: is a link that leads nowhere; mend it or check data.path",
    ),
    Case(
        "a pickle",
        rows(b"cos\nsystem\n(S'touch pwned'\ntR.", name="rows.pkl"),
        "~/rows.pkl: cannot tell what it holds; expected .jsonl, .json (each "
        "also .gz), .parquet, .arrayrecord; rename it",
    ),
    Case(
        "an archive",
        rows(b"PK\x03\x04", name="rows.zip"),
        "~/rows.zip: cannot tell what it holds; expected .jsonl, .json (each "
        "also .gz), .parquet, .arrayrecord; rename it",
    ),
]
MODEL_CASES = [
    Case(
        "unknown model",
        run_option("--config.model_name=llama_7b"),
        "model 'llama_7b' is unknown; expected a KerasHub Gemma preset, "
        "hf://org/name, a folder, gguf:FILE or tiny; for instance gemma3_270m, "
        "tiny",
    ),
    Case(
        "misspelt model",
        run_option("--config.model_name=gema3_1b"),
        "model 'gema3_1b' is unknown; expected a KerasHub Gemma preset, "
        "hf://org/name, a folder, gguf:FILE or tiny; did you mean 'gemma3_1b'?",
    ),
    Case(
        "no such folder",
        run_option("--config.model_name=~/none"),
        "~/none: no such folder; expected a Hugging Face or Keras model folder",
    ),
    Case(
        "no such GGUF",
        run_option("--config.model_name=gguf:~/none.gguf"),
        "~/none.gguf: no such file; gguf: expects the path of a .gguf file",
    ),
    Case(
        "a .keras file",
        model(lambda folder: (shutil.rmtree(folder), folder.write_bytes(b"PK"))),
        "~/model: is a file, which is not opened; expected a Hugging Face or "
        "Keras model folder, or gguf:FILE",
    ),
    Case(
        "another family",
        model(config(model_type="llama")),
        "~/model: holds a 'llama' model; expected one of gemma, gemma2, "
        "gemma3_text, gemma3, gemma4_text, gemma4: name gemma3_270m or another Gemma",
    ),
    Case(
        "config not JSON",
        model(lambda folder: (folder / "config.json").write_text("{")),
        "~/model/config.json: not readable JSON (…); fetch the file again",
    ),
    Case(
        "no config",
        model(lambda folder: (folder / "config.json").unlink()),
        "~/model: holds no config.json; expected a Hugging Face or Keras model folder",
    ),
    Case(
        "wild layer count",
        model(config(num_hidden_layers=2**40, layer_types=None)),
        "~/model/config.json: num_layers is 1099511627776; expected at most "
        "1024; fetch the file again",
    ),
    Case(
        "a width of text",
        model(config(hidden_size="32")),
        "~/model/config.json: hidden_size is '32'; expected a whole number "
        "above 0; fetch the file again",
    ),
    Case(
        "another width",
        model(config(hidden_size=64)),
        "~/model/model.safetensors: tensor 'embed_tokens.weight' has shape "
        "(512, 32); config.json makes it (512, 64); fetch the folder again",
    ),
    Case(
        "safetensors cut",
        model(cut("model.safetensors", 0.7)),
        "~/model/model.safetensors: not a safetensors file (…); fetch it again",
    ),
    Case(
        "safetensors with a wild header",
        model(wild_header),
        "~/model/model.safetensors: not a safetensors file (…); fetch it again",
    ),
    Case(
        "tensor missing",
        model(tensors(lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))),
        "~/model: tensor 'layers.1.mlp.up_proj.weight' is missing; fetch the folder again",
    ),
    Case(
        "tensor of another shape",
        model(tensors(lambda t: t.update({"model.norm.weight": np.zeros(33, np.float32)}))),
        "~/model/model.safetensors: tensor 'norm.weight' has shape (33,); "
        "config.json makes it (32,); fetch the folder again",
    ),
    Case(
        "tensor of integers",
        model(tensors(lambda t: t.update({"model.norm.weight": np.zeros(32, np.int8)}))),
        "~/model/model.safetensors: tensor 'model.norm.weight' is stored as "
        "I8; expected F64, F32, F16, BF16; quantized models are read as GGUF "
        "only",
    ),
    Case(
        "pickled weights only",
        model(pickled),
        "~/model: holds no .safetensors but pytorch_model.bin; other weight "
        "formats are never opened; save the model as safetensors",
    ),
    Case(
        "no tokenizer",
        model(lambda folder: (folder / "tokenizer.model").unlink()),
        "~/model: holds neither tokenizer.model nor tokenizer.json; fetch the folder again",
    ),
    Case(
        "garbage for a tokenizer",
        model(lambda folder: (folder / "tokenizer.model").write_bytes(b"\xff" * 99)),
        "~/model/tokenizer.model: not a SentencePiece model; fetch the file again",
    ),
    Case(
        "tokenizer.json not JSON",
        model(json_tokenizer(b"{]")),
        "~/model/tokenizer.json: not a tokenizer.json (…); fetch the file again",
    ),
    Case(
        "tokenizer.json not UTF-8",
        model(json_tokenizer(b"\xff")),
        "~/model/tokenizer.json: not UTF-8; fetch the file again",
    ),
    Case(
        "tokenizer of another model",
        model(other_vocabulary),
        "folder model: its tokenizer has 962 pieces and its embedding 512; "
        "they belong to different models: fetch both again",
    ),
    Case(
        "enormous tokenizer",
        model(huge_tokenizer),
        "~/model/tokenizer.model: has 1073741824 bytes; expected at most "
        "268435456, which is several times Gemma's; fetch the file again",
    ),
    Case(
        "GGUF with wild counts",
        run_option("--config.model_name=gguf:~/model/wild.gguf"),
        "~/model/wild.gguf: not a readable GGUF (18446744073709551615 tensors "
        "and 18446744073709551615 pairs); fetch the file again",
    ),
]
RUN_CASES = [
    Case(
        "workdir is a file",
        workdir(lambda path: path.write_text("mine")),
        "workdir ~/run is a file; name a folder",
    ),
    Case(
        "workdir below a file",
        run_option("--config.workdir=~/rows.jsonl/run"),
        "workdir ~/rows.jsonl/run cannot be made in ~/rows.jsonl; name another one",
    ),
    Case(
        "somebody else's workdir",
        workdir(lambda path: make_folder(path, "thesis.tex")),
        "workdir ~/run holds thesis.tex but no run of ours (config.json and "
        "manifest.json); name another workdir or empty this one",
    ),
    Case(
        "somebody else's config.json",
        workdir(lambda path: make_folder(path, "config.json", "manifest.json")),
        "~/run/manifest.json: cannot be read as JSON (Expecting value: line 1 "
        "column 1 (char 0)); restore it or name another workdir",
    ),
    Case(
        "absent device",
        run_option("--config.mesh.platform=tpu"),
        "mesh.platform is tpu and JAX found cpu; install the extra for tpu and "
        "free the device, or set mesh.platform=cpu",
    ),
    Case(
        "mesh of other devices",
        run_option("--config.mesh.data=3"),
        "mesh 3x1x1 (data x fsdp x tensor) does not use the 1 device(s) here; make the product 1",
    ),
    Case(
        "batch and accumulation",
        run_option("--config.batch_size=4", "--config.optimizer.accumulation_steps=3"),
        "batch_size is 4, not a multiple of optimizer.accumulation_steps=3; change one",
    ),
    Case(
        "no evaluation items",
        run_option("--config.data.evaluation_path=~/none"),
        "~/none: no such file or folder; check data.evaluation_path",
    ),
]
