"""The snippet in README.md, as a person runs it: from a script and from a notebook's cell.

It is taken from README.md and run as it stands there, but for the model's name (a tiny one), and a
few lines above the call that name small rows. Both run in processes of their own: nothing that
pytest has imported, parsed or set is there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CALL = "result = train_model(config)\n"
SMALL = """\
config.data.path = "rows.jsonl"
config.data.sequence_length = 128
config.data.workers = {workers}
config.model.cache_dir = "cache"
config.evaluation.samples = 0
"""


EVALUATION_CALL = "result = evaluate_model(config)\n"
SMALL_EVALUATION = """\
config.items_path = "items.jsonl"
config.model.cache_dir = "cache"
config.generation.num_slots = 2
config.code.sets = ["human_eval"]
config.code.max_problems = 1
config.code.max_new_tokens = 8
config.answers.max_items = 2
config.answers.max_new_tokens = 8
"""


def snippets() -> list[str]:
    """The Python blocks of README.md: training, evaluation, serving's client."""
    return FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def snippet() -> str:
    """The one that trains."""
    return snippets()[0]


def evaluation_snippet() -> str:
    """The one that evaluates, over few items of the working directory."""
    return snippets()[1].replace(EVALUATION_CALL, SMALL_EVALUATION + EVALUATION_CALL)


def small_snippet(*, workers: int = 0) -> str:
    """The same with a tiny model and rows from the working directory."""
    code = snippet().replace('"gemma3_270m"', '"tiny"')
    return code.replace(CALL, SMALL.format(workers=workers) + CALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with rows in it, and nothing of this checkout."""
    with (tmp_path / "rows.jsonl").open("w") as file:
        for i in range(40):
            row = {"question": f"What is f{i}?", "answer": f"It adds {i % 5}."}
            file.write(json.dumps(row) + "\n")
    with (tmp_path / "items.jsonl").open("w") as file:
        for split in ("seen", "unseen"):
            item = {"id": split, "question": "What is f1?", "answer": "It adds 1.", "split": split}
            empty = dict.fromkeys(("source", "symbol", "kind", "license", "tests"), "")
            file.write(json.dumps({**item, **empty, "facts": ["1"]}) + "\n")
    return tmp_path


def environment() -> dict[str, str]:
    """This one's, with the package in reach as an installation would bring it."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}


def run_script(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    (folder / "snippet.py").write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "snippet.py"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def run_notebook(folder: Path, *cells: str) -> list[nbformat.NotebookNode]:
    """Runs the cells in one kernel, whatever they raise, and gives them back with their outputs."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(
        notebook,
        timeout=240,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=environment())
    return notebook.cells


def outputs(cell: nbformat.NotebookNode, kind: str) -> list[nbformat.NotebookNode]:
    return [output for output in cell.outputs if output.output_type == kind]


def shown(cell: nbformat.NotebookNode) -> str:
    """What the cell's last expression shows."""
    assert not outputs(cell, "error"), outputs(cell, "error")[0].evalue
    (output,) = outputs(cell, "execute_result")
    return output.data["text/plain"]


def test_the_snippet_is_the_one_that_is_promised():
    lines = snippet().splitlines()
    assert lines[0] == "from coderllm_jax import TrainingConfig, train_model"
    assert "config = TrainingConfig.create_default()" in lines
    for name in ("model_name", "learning_rate", "batch_size", "epochs"):
        assert any(line.startswith(f"config.{name} = ") for line in lines)
    # What the tests below change is there to be changed, once.
    assert snippet().count('"gemma3_270m"') == 1
    assert snippet().count(CALL) == 1


def test_the_snippet_as_it_stands_is_a_valid_configuration():
    from coderllm_jax import TrainingConfig

    names: dict[str, object] = {}
    exec(snippet().partition(CALL)[0], names)
    assert TrainingConfig.from_config_dict(names["config"]).epochs == 2


def test_the_evaluation_s_snippet_is_the_one_that_is_promised():
    code = snippets()[1]
    lines = code.splitlines()
    assert lines[0] == "from coderllm_jax import EvaluationConfig, evaluate_model"
    assert "config = EvaluationConfig.create_default()" in lines
    assert 'config.model_path = "runs/lora"' in lines
    assert 'config.benchmark_suite = ["code_generation", "qa_accuracy"]' in lines
    assert code.count(EVALUATION_CALL) == 1


def test_both_as_one_script(folder):
    done = run_script(folder, small_snippet() + evaluation_snippet())
    assert done.returncode == 0, done.stderr
    trained, evaluated = done.stdout.splitlines()
    assert evaluated.endswith(" runs/lora/evaluation/report/index.html")
    assert (folder / "runs/lora/evaluation/results.json").is_file()
    loss, adapter = trained.split()
    summary = json.loads((folder / "runs/lora/report/summary.json").read_text())
    assert summary["status"] == "finished"
    assert float(loss) == summary["best_eval_loss"]
    assert (folder / adapter).is_dir()
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.long
def test_a_script_without_a_main_guard_with_workers(folder):
    """Workers are started as new processes, which must not run the script, and train, again."""
    code = small_snippet(workers=2) + 'open("times_run", "a").write("x")\n'
    done = run_script(folder, 'open("times_begun", "a").write("x")\n' + code)
    assert (folder / "times_begun").read_text() == "x"
    assert done.returncode == 0, done.stderr
    assert (folder / "times_run").read_text() == "x"
    assert len(list((folder / "runs/lora/metrics").glob("events.*"))) == 1


@pytest.mark.long
def test_a_notebook(folder):
    surroundings, misspelt, unknown, trained, result = run_notebook(
        folder,
        "import asyncio, sys\n"
        "from absl import flags\n"
        "asyncio.get_running_loop().is_running(), sys.stderr.isatty(), flags.FLAGS.is_parsed()",
        small_snippet().replace("config.learning_rate", "config.learning_rat"),
        small_snippet().replace('"tiny"', '"gemma3_270"'),
        small_snippet(workers=2),
        "result",
    )
    assert shown(surroundings) == "(True, False, False)"

    (error,) = outputs(misspelt, "error")
    assert error.evalue == (
        "unknown configuration key 'learning_rat'; did you mean 'learning_rate'?"
    )

    (error,) = outputs(unknown, "error")
    assert error.ename == "ModelError"
    assert error.evalue.startswith("model 'gemma3_270' is unknown; expected ")
    assert error.evalue.endswith("did you mean 'gemma3_270m'?")
    assert "\n" not in error.evalue

    assert not outputs(trained, "error"), outputs(trained, "error")[0].evalue
    text = "".join(output.text for output in outputs(trained, "stream"))
    assert "step 8/8" in text
    assert "Warning" not in text
    summary = json.loads((folder / "runs/lora/report/summary.json").read_text())
    assert summary["status"] == "finished"
    assert "runs/lora" in shown(result)
    figures = [float(number) for number in re.findall(r"\d+\.\d+", shown(result))]
    assert pytest.approx(summary["best_eval_loss"], abs=1e-2) in figures
