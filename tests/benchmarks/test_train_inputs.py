"""The batches that the step benchmark compares programs on: representative, complete, alike."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.measure import Counts, count
from benchmarks.train_inputs import (
    full_batch,
    load_batches,
    packed_batches,
    padded_batches,
    save_batches,
    spread_ranks,
    write_huggingface,
)
from coderllm_jax.data.prompts import Encoded
from coderllm_jax.data.tokenized import TokenizedExamples
from coderllm_jax.data.tokenizer import build_sentencepiece
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.load import load_model


@pytest.fixture
def examples():
    """40 examples of 3 to 22 positions; the second half of each is its answer."""
    rng = np.random.default_rng(0)
    encoded = []
    for number in range(40):
        length = 4 + number % 20
        ids = rng.integers(1, 500, length).astype(np.int32)
        encoded.append(Encoded(ids, np.arange(length) >= length // 2))
    return TokenizedExamples.from_encoded(encoded)


def test_ranks_are_the_middles_of_equal_parts():
    assert spread_ranks([9, 1, 5, 3, 7, 2], 3) == [5, 2, 0]
    assert spread_ranks([4, 8], 1) == [1]


def test_ranks_keep_the_mean_of_what_they_stand_for():
    sizes = np.random.default_rng(1).integers(20, 200, 1000)
    chosen = sizes[spread_ranks(sizes.tolist(), 8)]
    assert abs(chosen.mean() / sizes.mean() - 1) < 0.02


def test_no_item_is_taken_twice():
    assert sorted(spread_ranks([3, 1, 2], 8)) == [0, 1, 2]


def test_padded_batches_are_as_wide_as_their_longest_example(examples):
    for batch in padded_batches(examples, batch_size=4, num_batches=3):
        lengths = (batch.segments > 0).sum(axis=1)
        assert batch.inputs.shape == (4, lengths.max())
        assert batch.segments.max() == 1


def test_padded_and_packed_batches_hold_whole_examples(examples):
    """Every row's first example begins as some example does, and is supervised as it is."""
    known = {
        (ids[:-1].tobytes(), ids[1:].tobytes(), answers[1:].tobytes())
        for ids, answers in (examples[i] for i in range(len(examples)))
    }
    packed = packed_batches(examples, batch_size=2, sequence_length=64, num_batches=2)
    for batch in [*padded_batches(examples, batch_size=4, num_batches=3), *packed]:
        for row in zip(*batch, strict=True):
            inputs, targets, weights, _, segments = row
            for segment in range(1, segments.max() + 1):
                own = segments == segment
                supervised = weights[own] > 0
                key = (inputs[own].tobytes(), targets[own].tobytes(), supervised.tobytes())
                assert key in known


def test_a_full_batch_has_no_padding_and_supervises_everything(examples):
    batch = full_batch(examples, batch_size=4, sequence_length=32)
    assert count(batch) == Counts(positions=128, tokens=128, supervised=128)
    np.testing.assert_array_equal(batch.inputs[:, 1:], batch.targets[:, :-1])


def test_counts_tell_padding_and_questions_apart(examples):
    (batch,) = padded_batches(examples, batch_size=4, num_batches=1)
    counts = count(batch)
    assert counts.positions == batch.inputs.size
    assert counts.tokens == int((batch.segments > 0).sum())
    assert counts.supervised == int(batch.weights.sum()) < counts.tokens <= counts.positions


def test_batches_come_back_from_their_file(examples, tmp_path):
    batches = padded_batches(examples, batch_size=4, num_batches=3)
    save_batches(tmp_path / "b.npz", batches)
    for before, after in zip(batches, load_batches(tmp_path / "b.npz"), strict=True):
        for expected, found in zip(before, after, strict=True):
            np.testing.assert_array_equal(expected, found)


def test_the_folder_for_peers_holds_the_same_weights(tmp_path, small_vocabulary):
    """Our own reader of Hugging Face folders finds what was written."""
    model = load_model("tiny", dtype="float32", cache_dir=str(tmp_path))
    folder = tmp_path / "huggingface"
    write_huggingface(folder, TINY, model.weights)
    (folder / "tokenizer.model").write_bytes(build_sentencepiece(*small_vocabulary))
    back = load_model(str(folder), dtype="float32", cache_dir=str(tmp_path))
    assert back.architecture == TINY
    np.testing.assert_array_equal(back.weights["embedding"], model.weights["embedding"])
    for name, values in model.weights["blocks"].items():
        np.testing.assert_array_equal(back.weights["blocks"][name], values)
