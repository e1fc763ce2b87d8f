"""Files of options: what is written is what is read, and nothing in them runs or multiplies."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coderllm_jax.config import documents
from coderllm_jax.config.documents import Entry, parse_json, parse_yaml, read_document
from coderllm_jax.errors import ConfigError

NAMES = st.text("abcdefg_", min_size=1, max_size=6)
LEAVES = (
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.lists(st.integers() | st.text(max_size=4), max_size=3)
)
TREES = st.dictionaries(
    NAMES, LEAVES | st.dictionaries(NAMES, LEAVES, min_size=1, max_size=3), max_size=4
)


def flat(tree: dict, prefix: str = "") -> dict:
    values = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.2 asks to be quoted: the word `0E0` is a number there, `on` is not."""

    yaml_implicit_resolvers = documents._Loader.yaml_implicit_resolvers


# The machine may be busy: neither a slow example nor slow drawing is what is tested here.
patiently = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def values_of(entries: list[Entry]) -> dict:
    return {entry.path: entry.value for entry in entries}


@patiently
@given(TREES)
def test_json_gives_back_what_was_written(tree):
    assert values_of(parse_json(json.dumps(tree), name="a.json")) == flat(tree)


@patiently
@given(TREES)
def test_yaml_gives_back_what_was_written(tree):
    assert values_of(parse_yaml(yaml.dump(tree, Dumper=_Dumper), name="a.yaml")) == flat(tree)


@patiently
@given(TREES)
def test_nested_and_dotted_are_the_same(tree):
    dotted = yaml.dump(flat(tree), Dumper=_Dumper)
    assert values_of(parse_yaml(dotted, name="a.yaml")) == flat(tree)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-.5e+1", -5.0),
        ("1.", 1.0),
        (".inf", math.inf),
        ("16", 16),
        ("-0", 0),
        ("0x10", 16),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        # What YAML 1.1 takes for something else than is written.
        ("on", "on"),
        ("off", "off"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-11-22", "2026-11-22"),
        ("=", "="),
        ("1e", "1e"),
        ("'1e-3'", "1e-3"),
        ("[1e-3, on]", [1e-3, "on"]),
    ],
)
def test_plain_words_mean_what_is_written(text, value):
    [entry] = parse_yaml(f"key: {text}", name="a.yaml")
    assert entry == Entry("key", value, "a.yaml:1")
    assert type(entry.value) is type(value)


def test_places_are_lines():
    text = "# note\na: 1\nb:\n  c: 2\n  d: {e: 3,\n      f: 4}\n"
    assert parse_yaml(text, name="x") == [
        Entry("a", 1, "x:2"),
        Entry("b.c", 2, "x:4"),
        Entry("b.d.e", 3, "x:5"),
        Entry("b.d.f", 4, "x:6"),
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}"])
def test_an_empty_document_says_nothing(text):
    assert parse_yaml(text, name="x") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", r"^x:2: 'a' is set twice \(first: line 1\)"),
        ("b: {a: 1}\nb.a: 2", r"^x:2: 'b\.a' is set twice \(first: x:1\)"),
        ("b: {a: 1}\nb: {c: 2}", r"^x:2: 'b' is set twice"),
        ("a: 1\n- b", r"^x:2: this is not YAML we read: expected"),
        ("a: [1", r"^x:\d: this is not YAML"),
        ("\ta: 1", r"^x:1: this is not YAML"),
        ("a: 1\n---\nb: 2", r"^x:2: this is not YAML we read: but found another document"),
        ("- a", r"^x: expected options at the top"),
        ("word", r"^x: expected options at the top"),
        ("a: \x00", r"^x: this is not YAML: unacceptable character"),
        ("? [a]\n: 1", r"^x:1: a key is not a name"),
        ("a: &b 1\nc: *b", r"^x:1: .*anchors are not used here"),
        ("a: *b", r"^x:1: .*anchors are not used here"),
        ("a: !!int x", r"^x:1: .*tags are not used here"),
        ("\nb: !!set {a}", r"^x:2: .*tags are not used here"),
        ("!!python/object/apply:os.getcwd []", r"^x:1: .*tags are not used here"),
        (f"a: {'9' * 5000}", r"^x:1: a: Exceeds the limit"),
        ("[" * 5000, r"^x: nested too deeply"),
    ],
)
def test_what_is_wrong_in_yaml_is_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_yaml(text, name="x")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', r"^x: 'a' is set twice"),
        ('{"b": {"a": 1}, "b.a": 2}', r"^x: 'b\.a' is set twice"),
        ('{"a": 1,\n}', r"^x:\d: this is not JSON"),
        ("", r"^x:1: this is not JSON"),
        ("[1]", r"^x: expected options at the top"),
        (f'{{"a": {"9" * 5000}}}', r"^x: Exceeds the limit"),
        ("[" * 100_000, r"^x: nested too deeply"),
    ],
)
def test_what_is_wrong_in_json_is_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_json(text, name="x")
    assert "\n" not in str(error.value)


def test_a_few_anchors_cannot_fill_the_memory():
    bomb = "a0: &a0 {x: 1}\n" + "".join(
        f"a{n}: &a{n} {{l: *a{n - 1}, r: *a{n - 1}}}\n" for n in range(1, 60)
    )
    with pytest.raises(ConfigError, match="anchors"):
        parse_yaml(bomb, name="x")


def test_the_suffix_tells_what_a_file_is(tmp_path):
    for name, text in (("a.json", '{"a": 1}'), ("a.YAML", "a: 1"), ("b.json", '\ufeff{"a": 1}')):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        assert values_of(read_document(path, name=name)) == {"a": 1}
    with pytest.raises(ConfigError, match=r"^a\.txt: expected a file that ends in \.json, \.yaml"):
        read_document(tmp_path / "a.txt", name="a.txt")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"seed: \xff")
    with pytest.raises(ConfigError, match=r"^a\.yaml: byte 6 is not UTF-8"):
        read_document(path, name="a.yaml")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match=r"^a\.yaml: Permission denied$"):
        read_document(path, name="a.yaml")
