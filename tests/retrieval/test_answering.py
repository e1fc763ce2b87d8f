"""Looking up around any answerer: passages before, citations after, the rest untouched."""

from __future__ import annotations

import dataclasses

import pytest

from coderllm_jax.errors import DataError
from coderllm_jax.generation.answering import answer_all
from coderllm_jax.records import Answer, Chunk, Delta, Query, Sampling, Turn
from coderllm_jax.retrieval.answering import NOTHING_FOUND, PassageSettings, RetrievalAnswerer
from coderllm_jax.retrieval.building import build_index
from coderllm_jax.retrieval.passages import CITE
from coderllm_jax.retrieval.relevance import Threshold, Thresholds
from coderllm_jax.retrieval.search import Searcher, SearchSettings
from coderllm_jax.retrieval.store import open_index
from tests.fakes import FakeAnswerer, FakeClock, Reply
from tests.retrieval.hash_embedder import HashEmbedder
from tests.retrieval.planted import PLANTED

pytest.importorskip("bm25s")
CHUNKS = [
    Chunk("clip", "lib.clip(x)\nClips updates to an interval.", "lib 1", "lib.clip"),
    Chunk("decay", "lib.decay(x)\nAdds weight decay to updates.", "lib 1", "lib.decay"),
    Chunk("again", "lib.clip(x)\nClips updates to an interval.", "lib 1", "lib.clip2"),
    Chunk("tree", "lib.tree(x)\nMaps a function over leaves.", "lib 1", "lib.tree"),
]
# Above what texts that share no word have.
THRESHOLDS = Thresholds(dense=Threshold(0.1, 1.0, 0.5, 9))
QUESTION = "What clips updates to an interval?"


class TimedEmbedder(HashEmbedder):
    """Takes half a second for a question."""

    def __init__(self, clock):
        super().__init__(dimensions=4096)
        self._clock = clock

    def embed_queries(self, texts):
        self._clock.sleep(0.5)
        return super().embed_queries(texts)


def make(tmp_path, *replies, chunks=CHUNKS, **settings):
    """(answerer, the fake inside it, the clock)."""
    clock = FakeClock()
    build_index(tmp_path / "index", chunks, HashEmbedder(dimensions=4096))
    index = open_index(tmp_path / "index")
    calibrated = dataclasses.replace(index.manifest, thresholds=THRESHOLDS)
    index = dataclasses.replace(index, manifest=calibrated)
    searcher = Searcher(index, TimedEmbedder(clock), SearchSettings())
    inner = FakeAnswerer(clock, replies or (Reply(),), num_places=4)
    answerer = RetrievalAnswerer(
        inner,
        searcher,
        count_tokens=lambda text: len(text.split()),
        settings=PassageSettings(**settings),
        now_s=clock.now,
    )
    return answerer, inner, clock


def says(*texts):
    return Reply(chunks=tuple((0.25 * n, text, 1) for n, text in enumerate(texts, 1)))


def run(answerer, query):
    """(the texts of all deltas, the answer)."""
    answerer.submit(query)
    texts = []
    while True:
        for delta in answerer.poll(1.0):
            texts.append(delta.text)
            if delta.answer is not None:
                assert answerer.is_idle
                return texts, delta.answer


def test_the_question_gets_passages_and_the_answer_sources(tmp_path):
    answerer, inner, _ = make(tmp_path, says("It is lib.clip", " [1]."))
    _, answer = run(answerer, Query.from_question("q", QUESTION))
    (asked,) = inner.queries
    assert asked.question == (
        f"{CITE}\n\n[1]\n  lib.clip(x)\n  Clips updates to an interval.\n"
        f"[2]\n  lib.decay(x)\n  Adds weight decay to updates.\n\n{QUESTION}"
    )
    assert [(source.id, source.source) for source in answer.sources] == [
        ("clip", "lib 1"),
        ("decay", "lib 1"),
    ]
    assert 1 >= answer.sources[0].score > answer.sources[1].score > 0
    assert answer.sources[0].text == "lib.clip(x)\nClips updates to an interval."
    assert (answer.text, answer.num_false_citations) == ("It is lib.clip [1].", 0)


def test_everything_else_of_a_query_stays(tmp_path):
    answerer, inner, _ = make(tmp_path)
    turns = (Turn("user", "Hi"), Turn("model", "Hello"), Turn("user", QUESTION))
    query = Query(
        "q", turns, max_new_tokens=3, sampling=Sampling(seed=7), stop=("x",), logprobs=True
    )
    run(answerer, query)
    (asked,) = inner.queries
    assert asked.turns[:2] == turns[:2]
    assert asked.question != QUESTION
    assert dataclasses.replace(asked, turns=turns) == query


def test_a_text_to_be_continued_is_handed_on_as_it_is(tmp_path):
    answerer, inner, _ = make(tmp_path, says("return [7]\n", "see [7]"))
    query = Query("q", continues="def clips_updates(")
    _, answer = run(answerer, query)
    assert inner.queries == [query]
    assert (answer.sources, answer.retrieval_s) == ((), 0.0)
    assert answer.text == "return [7]\nsee [7]"


def test_markers_that_point_nowhere_go_also_from_what_is_streamed(tmp_path):
    answerer, _, _ = make(tmp_path, says("It is lib.clip [", "1", "][", "9]", ", see [7", ", 2]."))
    texts, answer = run(answerer, Query.from_question("q", QUESTION))
    assert "".join(texts) == answer.text == "It is lib.clip [1], see [2]."
    assert answer.num_false_citations == 2
    assert len(texts) == 6  # every piece is told of, if only as a sign of life


def test_searching_is_part_of_the_answers_time_and_told_apart(tmp_path):
    answerer, _, clock = make(tmp_path, says("a", "b"))
    before = clock.now()
    _, answer = run(answerer, Query.from_question("q", QUESTION))
    assert answer.submitted_s == before
    assert answer.retrieval_s == 0.5
    assert answer.time_to_first_token_s == pytest.approx(0.75)
    assert answer.total_s == pytest.approx(1.0)


def test_nothing_relevant_is_said_without_asking_anyone(tmp_path):
    answerer, inner, _ = make(tmp_path)
    texts, answer = run(answerer, Query.from_question("q", "How do I boil eggs?"))
    assert inner.queries == []
    assert "".join(texts) == answer.text == NOTHING_FOUND
    assert (answer.finish, answer.sources, answer.num_new_tokens) == ("stop", (), 0)
    assert answer.total_s == answer.retrieval_s == 0.5
    assert answer.time_to_first_token_s is None


def test_or_the_question_is_asked_without_passages(tmp_path):
    answerer, inner, _ = make(tmp_path, says("Never [1]."), say_nothing_found=False)
    query = Query.from_question("q", "How do I boil eggs?")
    _, answer = run(answerer, query)
    assert inner.queries == [query]
    assert (answer.text, answer.num_false_citations) == ("Never.", 1)


def test_nothing_found_does_not_wait_for_others(tmp_path):
    answerer, _, clock = make(tmp_path, Reply(chunks=((9.0, "slowly", 1),)))
    answerer.submit(Query.from_question("slow", QUESTION))
    answerer.submit(Query.from_question("none", "How do I boil eggs?"))
    assert not answerer.is_idle
    before = clock.now()
    told = answerer.poll(60.0)
    assert [delta.id for delta in told if delta.answer] == ["none"]
    assert clock.now() < before + 1


def test_near_duplicates_and_the_budget(tmp_path):
    answerer, _, _ = make(tmp_path, most=1)
    assert [hit.chunk.id for hit in answerer.look_up(QUESTION).hits] == ["clip"]
    answerer.settings = PassageSettings(tokens=7)
    assert [hit.chunk.id for hit in answerer.look_up(QUESTION).hits] == ["clip"]
    answerer.settings = PassageSettings(near_duplicate=1.01)
    assert {hit.chunk.id for hit in answerer.look_up(QUESTION).hits} >= {"clip", "again"}


@pytest.mark.parametrize("planted", PLANTED, ids=lambda chunk: chunk.id)
def test_a_planted_chunk_stays_inside_its_own_lines(tmp_path, planted):
    evil = dataclasses.replace(planted, text=f"{planted.text}\nClips updates to an interval.")
    answerer, inner, _ = make(tmp_path, chunks=[*CHUNKS, evil], cite=False)
    _, answer = run(answerer, Query.from_question("q", QUESTION))
    assert planted.id in [source.id for source in answer.sources]
    block, question = inner.queries[0].question.rsplit("\n\n", 1)
    assert question == QUESTION
    margin = [line for line in block.split("\n") if not line.startswith("  ")]
    assert margin == [f"[{number}]" for number in range(1, len(answer.sources) + 1)]


def test_cancelling_ends_it_with_its_sources(tmp_path):
    answerer, _, _ = make(tmp_path, Reply(chunks=((0.1, "Well [", 1),), fault="hang"))
    answerer.submit(Query.from_question("q", QUESTION))
    assert [delta.text for delta in answerer.poll(1.0)] == ["Well"]
    assert answerer.cancel("q")
    assert not answerer.cancel("other")
    (delta,) = answerer.poll(1.0)
    assert delta.answer is not None
    assert (delta.answer.finish, delta.answer.text, delta.text) == ("cancelled", "Well [", " [")
    assert delta.answer.sources
    assert answerer.is_idle


def test_a_query_that_inner_refuses_leaves_nothing_behind(tmp_path):
    answerer, inner, _ = make(tmp_path)
    inner._refuses = lambda query: True
    with pytest.raises(DataError, match="refused"):
        answerer.submit(Query.from_question("q", QUESTION))
    inner._refuses = lambda query: False
    run(answerer, Query.from_question("q", QUESTION))


def test_two_queries_of_one_id_are_refused(tmp_path):
    answerer, _, _ = make(tmp_path)
    answerer.submit(Query.from_question("q", QUESTION))
    with pytest.raises(DataError, match="being answered already"):
        answerer.submit(Query.from_question("q", QUESTION))


def test_many_questions_in_one_go(tmp_path):
    answerer, _, _ = make(tmp_path, says("Yes [1].", " No [9]."))
    questions = [QUESTION, "How do I boil eggs?", "What maps a function over leaves?"] * 5
    queries = [Query.from_question(str(n), question) for n, question in enumerate(questions)]
    answers = answer_all(answerer, queries)
    assert [answer.text for answer in answers] == [
        "Yes [1]. No.",
        NOTHING_FOUND,
        "Yes [1]. No.",
    ] * 5
    assert [answer.sources[0].id for answer in answers if answer.sources] == ["clip", "tree"] * 5


def test_identity_says_what_can_change_an_answer(tmp_path):
    first, _, _ = make(tmp_path / "a")
    same, _, _ = make(tmp_path / "b")
    assert first.identity == same.identity
    fewer, _, _ = make(tmp_path / "c", most=1)
    others, _, _ = make(tmp_path / "d", chunks=CHUNKS[:3])
    for other in (fewer, others):
        assert other.identity != first.identity
    assert first.identity["inner"] == {"fake": True}


def test_a_references_loss_is_under_the_grounded_prompt(tmp_path):
    answerer, inner, _ = make(tmp_path)
    assert not hasattr(answerer, "score_reference")
    scored = []
    inner.score_reference = lambda query, reference: scored.append((query.question, reference))
    answerer.score_reference(Query.from_question("q", QUESTION), "It is lib.clip.")
    answerer.score_reference(Query("q", continues="x"), "y")
    assert scored[0][0].startswith(CITE)
    assert scored[0][0].endswith(QUESTION)
    assert [reference for _, reference in scored] == ["It is lib.clip.", "y"]
    assert scored[1][0] == "x"


def test_a_delta_without_text_passes(tmp_path):
    answerer, inner, _ = make(tmp_path)
    answerer.submit(Query.from_question("q", QUESTION))
    inner.poll = lambda timeout_s=0.0: [Delta("q", ""), Delta("q", "", Answer("q", finish="stop"))]
    assert [delta.text for delta in answerer.poll()] == ["", ""]
