"""Code out of answers, as models write them."""

from __future__ import annotations

import pytest

from coderllm_jax.evaluation.extraction import completion_from_answer, extract_code

ADD = "def add(a, b):\n    return a + b\n"
PROMPT = 'def add(a, b):\n    """Adds."""\n'


@pytest.mark.parametrize(
    "answer",
    [
        ADD,
        f"```python\n{ADD}```",
        f"Sure! Here it is:\n\n```python\n{ADD}```\nIt adds two numbers.",
        f"```py\n{ADD}```",
        f"```\n{ADD}```",
        f"~~~python\n{ADD}~~~",
        f"```python\n{ADD}",
        f"```python\r\n{ADD}```".replace("\n", "\r\n").replace("\r\r", "\r"),
        "  ```python\n  def add(a, b):\n      return a + b\n  ```",
        f"Run `add` so:\n```bash\npip install add\n```\nand\n```python\n{ADD}```",
        f"Use it:\n```python\nprint(1)\n```\nwhere\n```python\n{ADD}```",
        f"Here is the function.\n\n{ADD}\nThis returns the sum, doesn't it?",
    ],
)
def test_the_function_is_found(answer):
    assert extract_code(answer, "add").strip() == ADD.strip()


def test_imports_in_a_block_before_come_along():
    answer = f"First\n```python\nimport math\n```\nthen\n```python\n{ADD}```"
    assert extract_code(answer, "add") == f"import math\n\n{ADD}"


def test_prose_stays_prose():
    assert extract_code("I do not know, sorry.") == "I do not know, sorry."
    assert extract_code("") == ""


@pytest.mark.parametrize(
    "answer",
    [
        "    return a + b\n",
        "return a + b",
        "```python\nreturn a + b\n```",
        "```python\n    return a + b\n```",
        f"```python\n{ADD}```",
        f"```python\nimport math\n\n{ADD}```",
        "total = a + b\nreturn total",
        "total = a + b\n    return total",
        "    if a:\n        return a + b\n    return b",
        "if a:\n        return a + b\n    return b",
        "    return a + b\n\n\nprint(add(1, 2",
        "    return a + b\n\ndef sub(a, b):\n    return a - b\n",
    ],
)
def test_prompt_and_completion_make_a_program(answer):
    namespace: dict = {}
    program = PROMPT + completion_from_answer(answer, prompt=PROMPT, entry_point="add")
    exec(program, namespace)
    assert namespace["add"](2, 3) == 5
    assert namespace["add"](0, 3) == 3


def test_without_a_prompt_it_is_the_program():
    assert completion_from_answer(f"```python\n{ADD}```") == ADD
