"""Tokenized examples hold what was encoded, or what the rule for long ones leaves of it."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.data.prompts import encode_conversation
from coderllm_jax.data.tokenized import TokenizedExamples, tokenize_examples
from coderllm_jax.data.tokenizer import ByteTokenizer
from coderllm_jax.errors import DataError
from coderllm_jax.records import Example

TOKENIZER = ByteTokenizer()
SHORT = Example.from_question("q", "a")  # 19 tokens, 18 positions
LONG_ANSWER = Example.from_question("q", "a" * 50)
LONG_QUESTION = Example.from_question("q" * 50, "a")


def same(one, other):
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), min_size=1, max_size=20))
def test_every_example_is_there_as_it_was_encoded(pairs):
    examples = [Example.from_question(question, answer) for question, answer in pairs]
    tokenized = tokenize_examples(TOKENIZER, examples, sequence_length=512).examples
    assert len(tokenized) == len(examples)
    for index, example in enumerate(examples):
        encoded = encode_conversation(TOKENIZER, example.turns)
        assert same(tokenized[index], encoded)
        assert tokenized.lengths[index] == len(encoded.ids) - 1
        assert tokenized.sources[index] == index


def test_more_examples_than_one_batch_of_the_tokenizer():
    examples = [Example.from_question(f"q{i}", f"a{i}") for i in range(2500)]
    tokenized = tokenize_examples(TOKENIZER, examples, sequence_length=64).examples
    assert len(tokenized) == 2500
    for index in (0, 1023, 1024, 2499):
        assert f"q{index}\nmodel" in TOKENIZER.decode(tokenized[index].ids).replace("\n\n", "\n")


def test_an_example_of_exactly_the_length_fits():
    assert tokenize_examples(TOKENIZER, [SHORT], sequence_length=18).num_truncated == 0
    with pytest.raises(DataError, match="takes 18 positions"):
        tokenize_examples(TOKENIZER, [SHORT], sequence_length=17)


def test_a_long_example_is_an_error_that_says_where_it_is():
    message = (
        "a.jsonl:1: takes 67 positions; expected at most data.sequence_length=32; "
        "raise it to 67, or set data.on_long_example to drop or truncate"
    )
    with pytest.raises(DataError, match=message):
        tokenize_examples(
            TOKENIZER, [SHORT, LONG_ANSWER], sequence_length=32, locate=lambda i: f"a.jsonl:{i}"
        )


def test_a_long_example_can_be_dropped():
    examples = [LONG_ANSWER, SHORT, LONG_QUESTION, SHORT]
    result = tokenize_examples(TOKENIZER, examples, sequence_length=32, on_long_example="drop")
    assert result.examples.sources.tolist() == [1, 3]
    assert (result.num_dropped, result.num_truncated) == (2, 0)


def test_a_long_example_can_be_cut_and_is_left_out_when_no_answer_is_left():
    examples = [LONG_QUESTION, LONG_ANSWER, SHORT]
    result = tokenize_examples(TOKENIZER, examples, sequence_length=32, on_long_example="truncate")
    assert result.examples.sources.tolist() == [1, 2]
    assert (result.num_dropped, result.num_truncated) == (1, 1)
    whole = encode_conversation(TOKENIZER, LONG_ANSWER.turns)
    assert same(result.examples[0], (whole.ids[:33], whole.supervised[:33]))
    assert result.examples.lengths.tolist() == [32, 18]


def test_nothing_left_is_an_error():
    with pytest.raises(DataError, match=r"none of 1 examples fits in data\.sequence_length=32"):
        tokenize_examples(TOKENIZER, [LONG_ANSWER], sequence_length=32, on_long_example="drop")


def test_saved_examples_are_mapped_and_travel_as_the_folder_name(tmp_path):
    examples = [Example.from_question(f"q{i}", "a" * i) for i in range(200)]
    tokenized = tokenize_examples(TOKENIZER, examples, sequence_length=512).examples
    mapped = tokenized.save(tmp_path / "tokens")
    assert isinstance(mapped.tokens.base, np.memmap)
    assert not mapped.tokens.flags.writeable
    sent = pickle.dumps(mapped)
    assert len(sent) < 500 < tokenized.tokens.nbytes
    for other in (mapped, pickle.loads(sent), pickle.loads(pickle.dumps(tokenized))):
        assert all(same(other[i], tokenized[i]) for i in range(200))
        assert np.array_equal(other.sources, tokenized.sources)


def test_none_at_all_is_a_value_too():
    assert len(TokenizedExamples.from_encoded([])) == 0
