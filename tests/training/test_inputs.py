"""What a run reads: the right questions, the right shots, and an honest count."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.data.prompts import encode_few_shot
from coderllm_jax.data.tokenizer import ByteTokenizer
from coderllm_jax.errors import DataError
from coderllm_jax.records import EvalItem, Example
from coderllm_jax.training.inputs import (
    Consumption,
    choose_items,
    choose_shots,
    few_shot_examples,
    read_inputs,
    vary_kinds,
)


def item(number: int, split: str = "unseen", answer: str = "It adds one.") -> EvalItem:
    return EvalItem(id=f"i{number}", question=f"What is g{number}?", answer=answer, split=split)


def config_for(path: Path, **changes: object) -> TrainingConfig:
    values = TrainingConfig.create_default()
    values.data.path = str(path)
    values.data.sequence_length = 128
    values.update_from_flattened_dict(changes)
    return TrainingConfig.from_config_dict(values)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(
            f'{{"question": "What is f{i}?", "answer": "It adds {i}.", "symbol": "m.f{i % 10}"}}\n'
            for i in range(20)
        )
    )
    return path


def test_only_unseen_items_are_scored_whatever_their_order() -> None:
    items = [item(i, "seen" if i % 2 else "unseen") for i in range(20)]
    chosen = choose_items(items, 4)
    assert len(chosen) == 4
    assert {one.split for one in chosen} == {"unseen"}
    assert choose_items(items[::-1], 4) == chosen


def test_items_without_unseen_ones_are_refused() -> None:
    with pytest.raises(DataError, match="none of 1 evaluation items is of the split 'unseen'"):
        choose_items([item(1, "seen")], 4)


def test_sampled_questions_are_of_different_kinds() -> None:
    items = [dataclasses.replace(item(i), kind=kind) for i, kind in enumerate("aaabbc")]
    assert [(one.kind, one.id) for one in vary_kinds(items)] == [
        ("a", "i0"),
        ("b", "i3"),
        ("c", "i5"),
        ("a", "i1"),
        ("b", "i4"),
        ("a", "i2"),
    ]


def test_shots_are_short_and_of_different_kinds() -> None:
    def example(question: str, kind: str, length: int) -> Example:
        return Example.from_question(question, "a" * length, kind=kind)

    examples = [example("long", "x", 500), example("q1", "x", 30), example("q2", "x", 31)]
    examples += [example("q3", "y", 40), example("too little", "z", 3)]
    assert [question for question, _ in choose_shots(examples)] == ["q1", "q3"]


def test_few_shot_rows_have_the_shots_that_fit_and_only_answers_count() -> None:
    tokenizer = ByteTokenizer()
    shots = [("Q" * 20, "A" * 20), ("R" * 20, "B" * 20)]
    length = len(encode_few_shot(tokenizer, shots, question="q", answer="a").ids) - 1
    both = few_shot_examples(tokenizer, shots, [item(1)], sequence_length=length + 40)
    none = few_shot_examples(tokenizer, shots, [item(1)], sequence_length=60)
    assert both is not None
    assert none is not None
    assert both.lengths[0] > 2 * 40
    assert none.lengths[0] < 60
    assert both.supervised.sum() == none.supervised.sum() == len(" It adds one.\n\n")


def test_an_item_that_fits_nowhere_means_no_few_shot_loss_for_all() -> None:
    long = item(1, answer="a" * 500)
    assert few_shot_examples(ByteTokenizer(), [], [item(2), long], sequence_length=100) is None


def test_counts_what_the_steps_consume(rows: Path) -> None:
    inputs = read_inputs(config_for(rows), ByteTokenizer(), [item(1)])
    consumption = Consumption(inputs)
    consumption.advance(1)
    first = consumption.examples
    assert 0 < first < 20
    consumption.advance(inputs.rows.num_steps(2))
    counted = consumption.to_dict()
    assert counted["rows_by_times_seen"] == {"2": 20}
    assert counted["times_seen_by_symbol"] == {f"m.f{i}": 4 for i in range(10)}
    assert counted["examples"] == 40


def test_counting_in_parts_is_counting_at_once(rows: Path) -> None:
    inputs = read_inputs(config_for(rows), ByteTokenizer(), [item(1)])
    at_once, in_parts = Consumption(inputs), Consumption(inputs)
    at_once.advance(5)
    for step in (1, 1, 3, 5):
        in_parts.advance(step)
    assert at_once.to_dict() == in_parts.to_dict()


def test_held_out_rows_are_not_trained_on(rows: Path) -> None:
    inputs = read_inputs(config_for(rows), ByteTokenizer(), None)
    trained = {example.question for example in inputs.examples}
    assert len(trained) < 20
    assert {sample.question for sample in inputs.questions}.isdisjoint(trained)


def test_a_long_row_is_named_by_its_place_in_the_file_also_after_rows_were_held_out(
    rows: Path,
) -> None:
    lines = rows.read_text().splitlines()
    lines[13] = lines[13].replace("It adds", "It adds " + "very " * 100)
    rows.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"rows\.jsonl:14: takes \d+ positions"):
        read_inputs(config_for(rows), ByteTokenizer(), None)


def test_evaluation_scores_every_item_once(rows: Path) -> None:
    items = [item(i) for i in range(7)]
    inputs = read_inputs(config_for(rows), ByteTokenizer(), items)
    answers = sum(len("It adds one.") + 1 for _ in items)  # and <end_of_turn>
    assert sum(int(batch.weights.sum()) for batch in inputs.evaluation.unseen) == answers
    assert inputs.statistics["num_evaluation_items"] == 7


def test_steps_are_as_asked_or_as_the_epochs_take(rows: Path) -> None:
    by_epochs = read_inputs(config_for(rows, epochs=3), ByteTokenizer(), [item(1)])
    assert by_epochs.num_steps(config_for(rows, epochs=3)) == by_epochs.rows.num_steps(3)
    assert by_epochs.num_steps(config_for(rows, steps=7)) == 7


def test_batches_are_the_sources_own(rows: Path) -> None:
    config = config_for(rows)
    inputs = read_inputs(config, ByteTokenizer(), [item(1)])
    iterator = inputs.batches(config, start_step=1, stop_step=2)
    try:
        batch = next(iterator)
    finally:
        iterator.close()
    expected = [inputs.rows[row] for row in range(config.batch_size, 2 * config.batch_size)]
    np.testing.assert_array_equal(batch.inputs, [row.inputs for row in expected])
