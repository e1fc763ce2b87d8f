"""Batches are a function of the step: complete, resumable, splittable over hosts and workers."""

import itertools
import pickle
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderllm_jax.data.pipeline import (
    BatchPart,
    PackedRows,
    evaluation_batches,
    make_train_iterator,
)
from coderllm_jax.data.prompts import Encoded
from coderllm_jax.data.tokenized import TokenizedExamples
from coderllm_jax.errors import DataError
from coderllm_jax.records import PackedBatch

LENGTH = 24
SIZES = st.lists(st.integers(2, LENGTH + 1), min_size=1, max_size=40)


def numbered(sizes):
    """Example i is the token 1000 + i, sizes[i] times, its second half supervised."""
    return TokenizedExamples.from_encoded(
        Encoded(np.full(size, 1000 + i, np.int32), np.arange(size) >= size // 2)
        for i, size in enumerate(sizes)
    )


def make_rows(sizes, *, batch_size=4, **options):
    return PackedRows(numbered(sizes), sequence_length=LENGTH, batch_size=batch_size, **options)


def take(rows, start, stop, **options):
    iterator = make_train_iterator(rows, start_step=start, stop_step=stop, **options)
    try:
        return list(iterator)
    finally:
        iterator.close()


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert type(batch) is type(other) is PackedBatch
        for field, expected in zip(batch, other, strict=True):
            np.testing.assert_array_equal(field, expected)
            assert field.dtype == expected.dtype


def examples_in(batches):
    """The examples of batches, one entry a segment."""
    found = []
    for batch in batches:
        for row in range(len(batch.inputs)):
            for segment in range(1, batch.segments[row].max() + 1):
                (token,) = {*batch.inputs[row][batch.segments[row] == segment].tolist()}
                found.append(token - 1000)
    return found


RANDOM = np.random.default_rng(0).integers(2, LENGTH + 2, 60).tolist()


@settings(deadline=None, max_examples=50)
@given(SIZES, st.integers(0, 9), st.integers(1, 5), st.booleans())
def test_each_epoch_holds_each_example_once(sizes, seed, batch_size, packing):
    rows = make_rows(sizes, seed=seed, batch_size=batch_size, packing=packing)
    for epoch in range(3):
        start, stop = rows.num_steps(epoch), rows.num_steps(epoch + 1)
        batches = take(rows, start, stop)
        assert sorted(examples_in(batches)) == list(range(len(sizes)))
        assert all(batch.inputs.shape == (batch_size, LENGTH) for batch in batches)
        assert {rows.epoch_of_step(step) for step in range(start, stop)} == {epoch}


def test_a_batch_by_hand():
    # Rows of 24 positions, best fit in given order: 20+3 | 15 | and one row to fill the batch.
    batch = take(make_rows([16, 21, 4], batch_size=3, seed=None), 0, 1)[0]
    assert batch.inputs[0].tolist() == [1001] * 20 + [1002] * 3 + [0]
    assert batch.segments[0].tolist() == [1] * 20 + [2] * 3 + [0]
    assert batch.positions[0].tolist() == [*range(20), *range(3), 0]
    # Of n tokens the second half is supervised; targets are tokens 1 to n - 1.
    assert batch.weights[0].tolist() == [0] * 9 + [1] * 11 + [0, 1, 1] + [0]
    assert batch.inputs[1].tolist() == [1000] * 15 + [0] * 9
    assert not any(field[2].any() for field in batch)


@settings(deadline=None, max_examples=50)
@given(SIZES, st.integers(0, 40), st.integers(1, 4))
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(sizes, start, batch_size):
    uninterrupted = take(make_rows(sizes, batch_size=batch_size), 0, start + 3)
    assert_same(
        take(make_rows(sizes, batch_size=batch_size), start, start + 3), uninterrupted[start:]
    )


def test_the_grain_iterator_resumes_too():
    rows = make_rows(RANDOM)
    iterator = make_train_iterator(rows)
    list(itertools.islice(iterator, 5))
    state = iterator.get_state()
    expected = list(itertools.islice(iterator, 3))
    other = make_train_iterator(rows)
    other.set_state(state)
    assert_same(list(itertools.islice(other, 3)), expected)
    iterator.close()
    other.close()


@settings(deadline=None, max_examples=30)
@given(SIZES, st.integers(0, 5), st.sampled_from([1, 2, 4]), st.integers(1, 2))
def test_the_hosts_parts_in_order_are_the_global_batch(sizes, start, hosts, rows_a_host):
    rows = make_rows(sizes, batch_size=hosts * rows_a_host)
    whole = take(rows, start, start + 4)
    parts = [
        take(
            make_rows(sizes, batch_size=hosts * rows_a_host),
            start,
            start + 4,
            part=BatchPart(host * rows_a_host, (host + 1) * rows_a_host),
        )
        for host in range(hosts)
    ]
    joined = [
        PackedBatch(*(np.concatenate(fields) for fields in zip(*step, strict=True)))
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


def test_rows_past_the_batch_are_empty():
    rows = make_rows(RANDOM, batch_size=3)
    (whole,), (rest,) = take(rows, 5, 6), take(rows, 5, 6, part=BatchPart(2, 4))
    assert_same(
        [rest._replace(**{name: getattr(rest, name)[:1] for name in rest._fields})],
        [whole._replace(**{name: getattr(whole, name)[2:] for name in whole._fields})],
    )
    assert not any(field[1].any() for field in rest)


def test_worker_processes_give_the_same_batches(tmp_path):
    mapped = numbered(RANDOM).save(tmp_path)
    rows = PackedRows(mapped, sequence_length=LENGTH, batch_size=2)
    expected = take(make_rows(RANDOM, batch_size=2), 3, 40)
    assert rows.num_steps(1) < 40
    batches = take(rows, 3, 40, workers=2)
    assert_same(batches, expected)
    # Ordinary arrays: what lies in shared memory goes when its owner does.
    assert {type(field) for batch in batches for field in batch} == {np.ndarray}


def test_what_is_to_come_does_not_hang_on_how_long_the_run_is():
    rows = make_rows(RANDOM)
    short = take(rows, 0, rows.num_steps(1))
    assert_same(take(rows, 0, rows.num_steps(3))[: len(short)], short)
    iterator = make_train_iterator(rows)
    assert_same(list(itertools.islice(iterator, len(short))), short)
    iterator.close()


def test_epochs_differ_and_seeds_differ():
    rows = make_rows(RANDOM)
    steps = rows.num_steps(1)
    orders = [examples_in(take(rows, steps * epoch, steps * epoch + 3)) for epoch in range(3)]
    orders.append(examples_in(take(make_rows(RANDOM, seed=1), 0, 3)))
    assert len({tuple(order) for order in orders}) == 4


def test_a_bad_batch_can_be_named():
    examples = numbered(RANDOM)
    sources = np.arange(len(RANDOM)) * 10  # as if nine of ten rows had been dropped
    moved = TokenizedExamples(examples.tokens, examples.supervised, examples.offsets, sources)
    rows = PackedRows(moved, sequence_length=LENGTH, batch_size=4)
    for step in (0, rows.num_steps(1) - 1, rows.num_steps(1), rows.num_steps(4) + 1):
        (batch,) = take(rows, step, step + 1)
        named = rows.examples_in_step(step)
        assert named.tolist() == [10 * example for example in examples_in([batch])]


def test_steps_are_found_in_any_order_and_by_a_copy():
    rows = make_rows(RANDOM)
    far = rows.num_steps(7)
    assert rows.epoch_of_step(far) == 7
    assert rows.epoch_of_step(far - 1) == 6
    assert rows.epoch_of_step(0) == 0
    assert make_rows(RANDOM).epoch_of_step(far - 1) == 6
    copy = pickle.loads(pickle.dumps(rows))
    assert copy.num_steps(7) == far
    assert_same([copy[far * 4 + 1]], [rows[far * 4 + 1]])
    assert len(rows._plans) <= 2


def test_threads_may_share_rows():
    rows = make_rows(RANDOM)
    expected = [make_rows(RANDOM)[row] for row in range(0, 400, 7)]
    wrong = []

    def read():
        for row, batch in zip(range(0, 400, 7), expected, strict=True):
            if not all(map(np.array_equal, rows[row], batch)):
                wrong.append(row)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@settings(deadline=None, max_examples=30)
@given(SIZES, st.sampled_from([1, 2]))
def test_evaluation_holds_every_example_once_in_a_fixed_order(sizes, hosts):
    parts = [
        evaluation_batches(
            numbered(sizes),
            sequence_length=LENGTH,
            batch_size=2 * hosts,
            part=BatchPart(2 * host, 2 * host + 2),
        )
        for host in range(hosts)
    ]
    assert sorted(examples_in(itertools.chain(*parts))) == list(range(len(sizes)))
    assert len({len(part) for part in parts}) == 1
    again = evaluation_batches(
        numbered(sizes), sequence_length=LENGTH, batch_size=2 * hosts, part=BatchPart(0, 2)
    )
    assert_same(again, parts[0])


def test_no_examples_is_an_error():
    with pytest.raises(DataError, match="no examples to make batches of"):
        make_rows([])


def test_the_pipeline_needs_neither_tensorflow_nor_torch_and_opens_no_port():
    program = """
import socket, sys
for name in ("tensorflow", "torch", "keras"):
    sys.modules[name] = None
def refuse(*args):
    raise AssertionError("a port was opened")
socket.socket.bind = socket.socket.listen = refuse
import numpy as np
from coderllm_jax.data.pipeline import PackedRows, make_train_iterator
from coderllm_jax.data.prompts import Encoded
from coderllm_jax.data.tokenized import TokenizedExamples
examples = TokenizedExamples.from_encoded([Encoded(np.arange(5, dtype=np.int32), np.ones(5, bool))])
iterator = make_train_iterator(PackedRows(examples, sequence_length=8, batch_size=2))
assert next(iterator).inputs.shape == (2, 8)
iterator.close()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


def test_a_worker_ends_with_the_process_that_reads_it():
    """A reader that is killed says nothing to its workers: they watch it."""
    program = """
import os, psutil, signal
from tests.data.test_pipeline import make_rows, RANDOM
from coderllm_jax.data.pipeline import make_train_iterator
batches = make_train_iterator(make_rows(RANDOM), workers=1)
next(batches)
workers = [child.pid for child in psutil.Process().children(recursive=True)]
print(*workers, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    workers = [int(pid) for pid in done.stdout.split()]
    assert workers, done.stderr
    _, alive = psutil.wait_procs(
        [psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], timeout=20
    )
    assert not alive
