"""The robustness suite against answerers that are healthy, forgetful, leaky or ill."""

from __future__ import annotations

import dataclasses
import json

import pytest

from coderllm_jax.config.evaluation import EvaluationConfig
from coderllm_jax.data.prompts import PromptStyle
from coderllm_jax.data.tokenizer import ByteTokenizer
from coderllm_jax.evaluation.consistency import measure_consistency
from coderllm_jax.evaluation.context import Context
from coderllm_jax.evaluation.disturbance import WAYS, choose_items, measure_drops
from coderllm_jax.evaluation.ledger import Ledger
from coderllm_jax.evaluation.regression import find_regressions
from coderllm_jax.evaluation.robustness import measure_stress, measure_survival, run_robustness
from coderllm_jax.evaluation.stress import Reading, StressReport, read_process, run_stress
from coderllm_jax.evaluation.survival import ORDINARY, find_leaks, shorten
from coderllm_jax.generation.answering import LocalAnswerer, answer_all
from coderllm_jax.generation.engine import Engine
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.forward import ForwardOptions
from coderllm_jax.records import Answer, Delta, EvalItem, Query
from tests.fakes import FakeAnswerer, FakeClock, Reply
from tests.model.tiny_model import tiny_weights

LONG = 2000  # letters; longer questions are refused
MIB = 2**20


def says(text, **more):
    """A reply whose prompt's tokens are not known, as of a server that does not tell."""
    return Reply(chunks=((0.0, text, 1),), num_prompt_tokens=0, **more)


class Answers(FakeAnswerer):
    """Answers `text(question)` at once and refuses what is too long; a base for the ill ones."""

    def __init__(self, text=lambda question: "ok", **options):
        options = {"num_places": 4, "refuses": lambda query: len(query.question) > LONG} | options
        super().__init__(FakeClock(), lambda body: says(text(body["prompt"])), **options)


def items_of(count, **more):
    return [
        EvalItem(
            id=f"seen:lib.f{number}:purpose",
            question=f"I came across lib.f{number} in some code. What is it?",
            answer=f"It is fact{number}.",
            split="seen" if number % 2 else "unseen",
            symbol=f"lib.f{number}",
            kind="purpose",
            facts=(f"fact{number}",),
            **more,
        )
        for number in range(count)
    ]


def context(answerer, items, tmp_path, *, max_length=256, **options):
    section = dataclasses.replace(EvaluationConfig().robustness, **options)
    generation = dataclasses.replace(EvaluationConfig().generation, max_length=max_length)
    config = dataclasses.replace(EvaluationConfig(), robustness=section, generation=generation)
    ask = lambda queries: answer_all(answerer, queries)  # noqa: E731
    return Context(config, answerer, ask, items, tmp_path, lambda line: None)


# -------------------------------------------------------------------------------------- ledger


def queries(*names):
    return [Query.from_question(name, f"What is {name}?") for name in names]


def test_every_query_ends_and_a_refused_one_ends_as_an_error():
    answerer = Answers(refuses=lambda query: query.id == "b")
    ledger = Ledger(answerer, now=answerer.clock.now)
    found = ledger.ask(queries("a", "b", "c"))
    assert [(each.id, each.finish) for each in found] == [
        ("a", "stop"),
        ("b", "error"),
        ("c", "stop"),
    ]
    assert found[1].error == "query b is refused, as scripted"
    assert not ledger.faults


class Ill(Answers):
    """Does `harm(deltas)` to what is told."""

    def __init__(self, harm, **options):
        super().__init__(**options)
        self.harm = harm

    def poll(self, timeout_s=0.0):
        return self.harm(super().poll(timeout_s))


def lose(deltas):
    return [delta for delta in deltas if not delta.id.startswith("b")]


def repeat(deltas):
    return deltas + [delta for delta in deltas if delta.id.startswith("b") and delta.answer]


def invent(deltas):
    return [*deltas, *([Delta("b9", "boo")] if deltas else [])]


def tear(deltas):
    return [d._replace(text="half") if d.id.startswith("b") else d for d in deltas]


def end_oddly(deltas):
    return [
        d._replace(answer=dataclasses.replace(d.answer, finish="")) if d.id[0] == "b" else d
        for d in deltas
    ]


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (lose, "b: never ended, and the answerer is idle"),
        (repeat, "b: told of after its end"),
        (invent, "b9: told of that was never asked"),
        (tear, "b: its answer is not the text that was streamed"),
        (end_oddly, "b: ended with finish ''"),
    ],
)
def test_a_fault_is_named_and_costs_the_others_nothing(harm, fault):
    answerer = Ill(harm, num_places=1)
    ledger = Ledger(answerer, now=answerer.clock.now)
    found = ledger.ask(queries("a", "b", "c"))
    assert ledger.faults[0] == fault
    assert [found[0].finish, found[2].finish] == ["stop", "stop"]


def test_what_is_not_heard_of_any_more_is_given_up():
    answerer = FakeAnswerer(FakeClock(), [says("x"), says("x", fault="hang"), says("x")])
    ledger = Ledger(answerer, patience_s=30.0, now=answerer.clock.now)
    ledger.ask(queries("a", "b"))
    assert ledger.faults == ["b: nothing was heard for 30 s"]
    assert ledger.ask(queries("c"))[0].finish == "stop"
    assert len(ledger.faults) == 1  # its late end is not another fault


def test_an_answerer_that_raises_is_not_asked_again():
    def harm(deltas):
        raise IndexError("slot 7")

    ledger = Ledger(Ill(harm))
    found = ledger.ask(queries("a", "b"))
    assert ledger.crash == "poll raised IndexError: slot 7"
    assert [(each.finish, each.error) for each in found] == [("", ledger.crash)] * 2
    assert not ledger.submit(queries("c")[0])


# ------------------------------------------------------------------------------------ survival


def problems_of(answerer, tmp_path, items=()):
    result = measure_survival(context(answerer, items, tmp_path))
    return result, result.details["survival"]["failed"]


def test_a_healthy_answerer_survives_everything(tmp_path):
    result, failed = problems_of(Answers(), tmp_path)
    assert not failed
    passed = result.figures["survival/passed"]
    assert (passed.value, passed.num_items) == (1.0, len(result.samples))
    names = {sample["id"] for sample in result.samples}
    wanted = ("empty", "blank", "very_long", "fake_turns", "control_tokens", "open_fence")
    assert {f"survival:{name}" for name in wanted} < names
    for sample in result.samples:
        json.dumps(sample, ensure_ascii=False).encode()  # as samples.jsonl is written
        assert len(sample["question"]) < 1000


def test_what_is_asked_is_what_the_case_says(tmp_path):
    answerer = Answers()
    problems_of(answerer, tmp_path)
    asked = [query.question for query in answerer.queries]
    assert "" in asked
    assert any("\ud800" in question for question in asked)
    assert asked.count(ORDINARY) == 2


def test_marks_of_turns_leak_unless_the_question_brought_them(tmp_path):
    _, failed = problems_of(Answers(lambda question: "ok<end_of_turn>"), tmp_path)
    assert "ordinary_0" in failed
    assert failed["empty"] == "its answer holds <end_of_turn>"
    assert not {"fake_turns", "control_tokens"} & failed.keys()
    assert find_leaks("<bos> and", "<bos><eos>") == ["<eos>"]


def test_a_refusal_must_say_why_and_an_ordinary_question_is_no_reason(tmp_path):
    class Silent(Answers):
        def poll(self, timeout_s=0.0):
            return [
                Delta(d.id, "", Answer(d.id, finish="error", error=" ")) for d in super().poll()
            ]

    _, failed = problems_of(Silent(), tmp_path)
    assert failed["empty"] == "it was refused without a word"
    _, failed = problems_of(Answers(refuses=lambda query: True), tmp_path)
    assert failed.keys() == {"ordinary_0", "ordinary_1"}


def test_a_prompt_that_is_cut_without_a_word_is_found(tmp_path):
    answerer = FakeAnswerer(FakeClock(), Reply(num_prompt_tokens=256), num_places=4)
    _, failed = problems_of(answerer, tmp_path)
    assert failed.keys() == {"very_long", "very_long_code"}
    assert failed["very_long"] == ("its prompt was cut without a word: 256 tokens for 512 words")


def test_the_question_that_makes_it_raise_is_told_from_the_others(tmp_path):
    class Fragile(Answers):
        poisoned = False

        def submit(self, query):
            super().submit(query)
            self.poisoned |= "<start_of_turn>" in query.question

        def poll(self, timeout_s=0.0):
            if self.poisoned:
                self.poisoned = False
                raise RuntimeError("no such turn")
            return super().poll(timeout_s)

    _, failed = problems_of(Fragile(), tmp_path)
    assert failed == {"fake_turns": "the answerer's poll raised RuntimeError: no such turn"}


def test_what_is_shown_of_a_text_is_short_and_valid():
    assert shorten("a\ud800") == "a\\ud800"
    assert shorten("x" * 301) == "x" * 300 + "… (301 characters)"


# ------------------------------------------------------------------------------ disturbed, again


def knows(items, only_clean):
    clean = {item.question: item.answer for item in items}

    def text(question):
        if only_clean:
            return clean.get(question, "I do not know.")
        return " ".join(item.answer for item in items if item.symbol in question)

    return text


def test_what_a_disturbance_costs_is_measured(tmp_path):
    items = items_of(24)
    ctx = context(Answers(knows(items, only_clean=True)), items, tmp_path)
    result = measure_drops(ctx)
    for way in WAYS:
        drop = result.figures[f"{way}/fact_f1_drop"]
        assert (drop.value, drop.num_items) == (1.0, 24)
        assert result.details["disturbed"][way]["adjusted_p"] < 0.01
    assert len(result.notes) == len(WAYS)
    assert len(result.samples) == 24 * len(WAYS)


def test_who_is_not_disturbed_loses_nothing(tmp_path):
    items = items_of(24)
    ctx = context(Answers(knows(items, only_clean=False)), items, tmp_path)
    result = measure_drops(ctx)
    assert {each.value for each in result.figures.values()} == {0.0}
    assert not result.notes
    assert result.is_whole


def test_questions_that_were_not_answered_are_said_and_asked_again_next_time(tmp_path):
    items = items_of(4)
    answerer = Answers(refuses=lambda query: query.question.isupper() or "I CAME" in query.question)
    result = measure_drops(context(answerer, items, tmp_path))
    assert not result.is_whole
    assert "4 disturbed questions were not answered" in result.notes[-1]


def test_nothing_to_check_by_is_said(tmp_path):
    items = [dataclasses.replace(item, facts=()) for item in items_of(3)]
    result = measure_drops(context(Answers(), items, tmp_path))
    assert not result.figures
    assert "not measured" in result.notes[0]


def test_the_gate_sees_a_model_that_has_become_fragile(tmp_path):
    items = items_of(24)
    robust, fragile = (
        measure_drops(context(Answers(knows(items, only_clean=only)), items, tmp_path))
        for only in (False, True)
    )
    empty = {"suites": {}}
    gate = find_regressions(
        empty, fragile.samples, empty, robust.samples, margin=0.02, alpha=0.05, scores=("fact_f1",)
    )
    assert gate.verdict.regressions == ("robustness/disturbed/fact_f1",)
    (change,) = [c for c in gate.result.details["changes"] if c["adjusted_p"] is not None]
    assert change["num_pairs"] == 24 * len(WAYS)
    assert change["num_clusters"] == 24  # the ways of one item are no independent witnesses


def test_items_are_chosen_by_their_ids_and_from_both_splits():
    items = items_of(40)
    chosen = choose_items(items, 10)
    assert choose_items(items[::-1], 10) == chosen
    assert [item.split for item in chosen].count("seen") == 5
    fewer = choose_items([item for item in items if item not in chosen[:2]], 10)
    assert set(chosen[2:]) <= set(fewer)
    assert len(choose_items(items[:1], 10)) == 1


# --------------------------------------------------------------------------------- consistency


def shares(result):
    return {name: figure.value for name, figure in result.figures.items()}


def test_equal_answers_are_equal(tmp_path):
    result = measure_consistency(
        context(Answers(str.upper), items_of(20), tmp_path, consistency_items=8)
    )
    assert set(shares(result).values()) == {1.0}
    assert len(result.samples) == 3 * 8
    assert result.figures["order/identical"].low == pytest.approx(0.676, abs=1e-3)  # Wilson, 8 of 8


def test_answers_that_change_with_time_are_found(tmp_path):
    count = iter(range(1000))
    answerer = Answers(lambda question: f"answer {next(count)}")
    result = measure_consistency(context(answerer, items_of(8), tmp_path))
    assert set(shares(result).values()) == {0.0}
    assert "8 of 8 greedy answers change with repetition" in result.notes


def test_answers_that_change_with_their_neighbours_are_found(tmp_path):
    class Sociable(Answers):
        company = 0  # queries handed over since it was last looked at

        def submit(self, query):
            super().submit(query)
            self.company += 1

        def poll(self, timeout_s=0.0):
            self.company = 0
            return super().poll(timeout_s)

    answerer = Sociable(lambda question: f"{question} after {answerer.company}")
    found = shares(measure_consistency(context(answerer, items_of(8), tmp_path)))
    assert found["repetition/identical"] == 1.0
    assert found["order/identical"] < 1.0
    assert found["batch/identical"] == 1 / 8  # the first came first in every round


def test_two_failures_are_not_two_equal_answers(tmp_path):
    answerer = Answers(refuses=lambda query: True)
    found = shares(measure_consistency(context(answerer, items_of(3), tmp_path)))
    assert set(found.values()) == {0.0}


# -------------------------------------------------------------------------------------- stress


def stress(answerer, *, requests=32, seconds=1e6, read=lambda: Reading(0, 0, 0, 0), **more):
    return run_stress(
        answerer,
        requests=requests,
        seconds=seconds,
        max_length=LONG // 2,
        max_new_tokens=8,
        patience_s=60.0,
        read=read,
        now=answerer.clock.now,
        **more,
    )


class Busy(Answers):
    """Answers in steps, as an engine does, so that there is something to cancel."""

    def __init__(self, **options):
        chunks = tuple((0.1 * step, "x", 1) for step in range(8))
        super().__init__(poll_s=0.1, **options)
        self._script = lambda: None
        self._script.next = lambda body: Reply(chunks=chunks, num_prompt_tokens=0)


def test_under_stress_every_request_ends_once():
    answerer = Busy()
    report = stress(answerer)
    assert not report.faults
    assert report.num_submitted == 16 + 32
    assert report.num_answered + report.num_cancelled + report.num_refused == 48
    # 2 of 16 too long, 3 of 16 cancelled: one before it began, one at its start, one while it went.
    assert report.num_refused == 2 * 3
    assert report.num_cancelled == 3 * 3
    assert not report.is_cut
    assert answerer.most_going > 8
    lengths = {len(query.question) for query in answerer.queries}
    assert min(lengths) < 50
    assert max(lengths) > 300


def test_the_same_seed_is_the_same_stress():
    def asked(seed):
        answerer = Busy()
        stress(answerer, seed=seed)
        return [(query.question, query.max_new_tokens) for query in answerer.queries]

    assert asked(1) == asked(1) != asked(2)


def test_when_its_time_is_up_all_that_is_going_ends():
    report = stress(Busy(), requests=1000, seconds=3.0)
    assert report.is_cut
    assert report.wall_s < 3.5  # they are cancelled, not waited for
    assert not report.faults
    assert report.num_submitted < 200
    assert report.num_answered + report.num_cancelled + report.num_refused == report.num_submitted


@pytest.mark.parametrize("harm", ["lose", "repeat"])
def test_lost_and_repeated_requests_are_counted(harm, tmp_path):
    class Careless(Busy):
        def poll(self, timeout_s=0.0):
            deltas = super().poll(timeout_s)
            ends = [d for d in deltas if d.answer and d.id in ("stress/20", "stress/24")]
            if harm == "lose":
                return [delta for delta in deltas if delta not in ends]
            return deltas + ends

    report = stress(Careless())
    assert report.num_at_fault == 2
    assert {fault.partition(": ")[0] for fault in report.faults} == {"stress/20", "stress/24"}


def growing(sizes):
    sizes = iter(sizes)
    return lambda: Reading(next(sizes), 0, 4, 9)


@pytest.mark.parametrize(
    ("sizes", "leaks"),
    [
        ((500 * MIB, 500 * MIB, 500 * MIB), False),
        ((500 * MIB, 520 * MIB, 530 * MIB), False),  # within what is allowed
        ((500 * MIB, 560 * MIB, 560 * MIB), False),  # once, and never again
        ((500 * MIB, 530 * MIB, 560 * MIB), True),  # a MiB a request
        ((4000 * MIB, 4035 * MIB, 4070 * MIB), False),  # 2 % of what is held
    ],
)
def test_memory_that_goes_on_growing_is_a_leak(sizes, leaks):
    assert stress(Busy(), read=growing(sizes)).leaks is leaks


def test_device_memory_leaks_like_any_other():
    readings = iter([Reading(0, 0, 4, 9), Reading(0, 40 * MIB, 4, 9), Reading(0, 80 * MIB, 5, 11)])
    report = stress(Busy(), read=lambda: next(readings))
    assert report.leaks
    assert (report.growth("threads"), report.growth("descriptors")) == (1, 2)


def test_a_real_reading_sees_memory_threads_and_files(tmp_path):
    before = read_process(devices=False)
    kept = bytearray(b"x") * (64 * MIB)
    with (tmp_path / "open").open("w"):
        after = read_process(devices=True)
    assert after.memory_bytes - before.memory_bytes > 48 * MIB
    assert after.descriptors == before.descriptors + 1
    assert before.threads >= 1
    del kept


def test_the_report_is_json():
    report = StressReport(1, 1, 0, 0, ("a: b",) * 30, (Reading(1, 0, 1, 1),) * 3, False, 0.5)
    values = json.loads(json.dumps(report.to_json()))
    assert len(values["faults"]) == 20
    assert values["num_faults"] == 30


# ------------------------------------------------------------------------------ the real engine


def test_tiny_is_robust(tmp_path):
    """The whole suite over the real engine: what it promises, it keeps."""
    engine = Engine(
        TINY,
        ByteTokenizer(),
        tiny_weights(),
        options=ForwardOptions(),
        num_slots=4,
        max_length=128,
    )
    answerer = LocalAnswerer(engine, name="tiny", style=PromptStyle("chat"), model={})
    ctx = context(
        answerer,
        items_of(4),
        tmp_path,
        max_length=128,
        max_items=2,
        max_new_tokens=6,
        stress_requests=32,
    )
    result = run_robustness(ctx)
    assert result.figures["survival/passed"].value == 1.0, result.notes
    for name in ("repetition", "order", "batch"):
        assert result.figures[f"{name}/identical"].value == 1.0
    assert result.figures["stress/ended_once"].value == 1.0
    stress_details = result.details["stress"]
    assert not stress_details["leaks"]
    assert min(stress_details[f"num_{end}"] for end in ("answered", "cancelled", "refused")) > 0
    assert result.figures["stress/threads_growth"].value <= 0  # other tests' may end meanwhile
    assert not answerer.poll()  # the step after the last
    assert answerer.is_idle
    lower = result.details["lower_is_better"]
    assert {"typos/fact_f1_drop", "stress/memory_growth_bytes"} <= set(lower)
    assert not any(name in lower for name in ("survival/passed", "order/identical"))
    assert result.unstable == {name for name in result.figures if name.startswith("stress/")}
    json.dumps(result.to_json())


def test_no_stress_is_no_stress(tmp_path):
    result = measure_stress(context(Answers(), (), tmp_path, stress_requests=0))
    assert not result.figures
