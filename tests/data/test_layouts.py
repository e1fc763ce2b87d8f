"""Each row layout means what its users mean, and each wrong row is told what is wrong with it."""

import pytest

from coderllm_jax.data.layouts import detect_layout, parse_row
from coderllm_jax.errors import DataError
from coderllm_jax.records import Example, Turn

QA = {"question": "q", "answer": "a", "symbol": "optax.adam", "id": 3}
ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "a"},
    ]
}
MESSAGES = {
    "messages": [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "r"}]},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "q2"},
        {"role": "model", "content": "a2"},
    ]
}


@pytest.mark.parametrize(
    ("row", "layout", "turns"),
    [
        (QA, "qa", [("user", "q"), ("model", "a")]),
        (ALPACA, "alpaca", [("user", "Add.\n\n1 2"), ("model", "3")]),
        (ALPACA | {"input": " "}, "alpaca", [("user", "Add."), ("model", "3")]),
        (ALPACA | {"input": None}, "alpaca", [("user", "Add."), ("model", "3")]),
        (SHAREGPT, "sharegpt", [("system", "s"), ("user", "q"), ("model", "a")]),
        (
            MESSAGES,
            "messages",
            [("system", "s"), ("user", "qr"), ("model", "a"), ("user", "q2"), ("model", "a2")],
        ),
    ],
)
def test_each_layout_is_recognised_and_read(row, layout, turns):
    assert detect_layout(row) == layout
    assert parse_row(row, layout).turns == tuple(Turn(*turn) for turn in turns)


def test_where_a_row_comes_from_is_kept():
    row = QA | {"source": "optax/x.py", "kind": "what", "license": "Apache-2.0"}
    assert parse_row(row, "qa") == Example.from_question(
        "q", "a", source="optax/x.py", symbol="optax.adam", kind="what", license="Apache-2.0"
    )
    assert parse_row(QA | {"source": None}, "qa").source == ""


def test_a_row_that_fits_one_layout_in_full_is_not_taken_for_another():
    assert detect_layout({"question": "about", **ALPACA}) == "alpaca"


def turns(*pairs, role="role", content="content"):
    return {"messages": [{role: name, content: text} for name, text in pairs]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "the row has no keys; expected question, answer"),
        (
            {"prompt": "q", "completion": "a"},
            r"has the keys 'prompt', 'completion'; expected question, answer \(qa\); .*rename",
        ),
        ({"qestion": "q", "anwser": "a"}, "did you mean 'question' for 'qestion', 'answer' for"),
        ({"question": "q", "anwser": "a"}, "'answer' is missing; .* did you mean it by 'anwser'"),
        ({"question": "q"}, "'answer' is missing; the row has the keys 'question'; add it"),
        (
            {"question": "q", "answer": ""},
            "'answer' is empty; drop the row or set data.allow_empty",
        ),
        ({"question": " ", "answer": "a"}, "'question' is empty; drop the row or fill it in"),
        ({"question": "q", "answer": 3}, r"'answer' is 3 \(int\); expected a string"),
        ({"question": None, "answer": "a"}, r"'question' is None \(NoneType\); expected a string"),
        ({"question": b"\xff", "answer": "a"}, r"'question' is b'\\xff' \(bytes\); expected"),
        ({"question": "\ud800", "answer": "a"}, "'question' contains half of a surrogate pair"),
        (QA | {"symbol": 3}, r"'symbol' is 3 \(int\); expected a string"),
        (ALPACA | {"input": ["x"]}, r"'input' is \['x'\] \(list\); expected a string"),
        ({"messages": "hello"}, r"'messages' is 'hello' \(str\); expected a list of objects"),
        ({"messages": []}, r"'messages' is \[\] \(list\); expected a list of objects"),
        ({"messages": ["hi"]}, r"messages\[0\] is 'hi' \(str\); expected an object with role and"),
        (
            {"conversations": [{"role": "user", "content": "q"}]},
            r"conversations\[0\] has the keys 'role', 'content'; expected from and value; "
            "rename 'conversations' to 'messages'",
        ),
        (turns(("user", "q"), content="text"), r"messages\[0\] has .* add the missing key"),
        (turns(("asistant", "q")), r"messages\[0\].role is 'asistant'; .* mean 'assistant'"),
        (turns(("tool", "q")), r"messages\[0\].role is 'tool'; expected one of system,"),
        (turns((3, "q")), r"messages\[0\].role is 3 \(int\); expected a string"),
        (turns(("user", ""), ("assistant", "a")), r"messages\[0\].content is empty; drop the row"),
        (turns(("user", "q"), ("assistant", "")), r"messages\[1\].content is empty; .*allow_empty"),
        (turns(("user", "q"), ("user", "r")), "turns 1 and 2 are both user turns; .*merge the two"),
        (turns(("user", "q")), "ends with a user turn; expected a model turn; drop its last turn"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "the part {'type': 'image_url'} .*expected text parts only",
        ),
    ],
)
def test_a_wrong_row_is_told_what_is_wrong(row, message):
    with pytest.raises(DataError, match=message) as caught:
        parse_row(row, detect_layout(row))
    assert "\n" not in str(caught.value)


def test_a_row_of_another_layout_names_it():
    with pytest.raises(DataError, match=r"expected qa rows; set data\.format=alpaca"):
        parse_row(ALPACA, "qa")


def test_empty_answers_can_be_allowed_but_not_empty_questions():
    assert parse_row({"question": "q", "answer": ""}, "qa", allow_empty=True).answer == ""
    with pytest.raises(DataError, match="'question' is empty"):
        parse_row({"question": "", "answer": "a"}, "qa", allow_empty=True)
