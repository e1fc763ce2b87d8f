"""The next card: what failed moves it, it is valid, and nothing that it quotes can run."""

from __future__ import annotations

import dataclasses
import json

import pytest

from coderllm_jax.comparison.next_card import (
    Change,
    NextIteration,
    configuration_of,
    propose,
    render_card,
    write_card,
)
from coderllm_jax.comparison.questions import ASKED, UNSEEN
from coderllm_jax.comparison.scoring import score
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.entry import load_card
from coderllm_jax.errors import ConfigError
from tests.comparison.made import answer, question
from tests.comparison.test_recommendations import findings

RUN = TrainingConfig()


def scored(number, text):
    return score(question(number), answer(text), looks_up=False, right_from=0.8, symbol_of={})


def found(num_wrong, *, base_right=(), **how):
    """Ten questions, of which the trained arm has so many wrong, and the base these right."""
    made = findings(how.pop("scores", {"trained": 0.5, "base": 0.4}), **how)
    trained = [scored(n, "No." if n < num_wrong else f"It is `{n}.5`.") for n in range(10)]
    base = [scored(n, f"It is `{n}.5`." if n in base_right else "No.") for n in range(10)]
    return dataclasses.replace(made, scored={"trained": trained, "base": base})


def proposed(found, run=RUN, how="improving"):
    iteration = propose(found, run, {"converged": how})
    return {change.option: change for change in iteration.changes}


def test_a_loss_that_still_falls_asks_for_twice_the_passes():
    changes = proposed(found(4))
    assert set(changes) == {"epochs"}
    assert (changes["epochs"].before, changes["epochs"].after) == (2, 4)
    assert changes["epochs"].items == tuple(f"seen:m.f{n}" for n in range(4))
    assert "4 of 10 questions" in changes["epochs"].words


def test_a_run_by_steps_goes_on_by_steps():
    changes = proposed(found(4), dataclasses.replace(RUN, steps=50))
    assert (changes["steps"].before, changes["steps"].after) == (50, 100)


@pytest.mark.parametrize("how", ["converged", "plateaued"])
def test_a_loss_that_stands_still_asks_for_a_larger_adapter(how):
    changes = proposed(found(4), how=how)
    assert changes["lora.rank"].after == 16
    assert "ffw_linear" in changes["lora.targets"].after


def test_the_adapter_does_not_grow_for_ever():
    lora = dataclasses.replace(RUN.lora, rank=64, targets=("query", "key", "value"))
    changes = proposed(found(4), dataclasses.replace(RUN, lora=lora), how="converged")
    assert "lora.rank" not in changes
    assert {"key", "ffw_gating"} <= set(changes["lora.targets"].after)


def test_a_run_that_diverged_goes_slower_once():
    changes = proposed(
        found(4, base_right=(0, 1), scores={"trained": 0.2, "base": 0.6}), how="diverged"
    )
    assert set(changes) == {"learning_rate"}
    assert changes["learning_rate"].after == pytest.approx(RUN.learning_rate / 3)


def test_what_was_forgotten_asks_for_less_haste():
    worse = found(4, base_right=(0, 1, 9), scores={"trained": 0.2, "base": 0.6})
    changes = proposed(worse)
    assert changes["learning_rate"].after == RUN.learning_rate / 2
    assert changes["learning_rate"].items == ("seen:m.f0", "seen:m.f1")
    not_worse = found(4, base_right=(0, 1), scores={"trained": 0.6, "base": 0.6})
    assert "learning_rate" not in proposed(not_worse)


def test_few_failures_change_nothing():
    iteration = propose(found(0), RUN, {"converged": "improving"})
    assert iteration.changes == ()
    assert iteration.to_json()["card"] == ""
    assert "no change" in iteration.words


def test_nothing_is_proposed_without_a_run_or_references():
    assert propose(found(4), None, {}).changes == ()
    own = dataclasses.replace(found(4), main_set=ASKED)
    assert propose(own, RUN, {}).changes == ()


def test_what_no_row_holds_is_said_in_words():
    newer = found(4, scores={"trained": 0.5, "rag": 0.5}, newer={"trained": 0.1, "rag": 0.7})
    words = propose(newer, RUN, {"converged": "improving"}).words
    assert "prepare rows" in words
    assert UNSEEN not in words  # in a reader's words


def test_the_card_loads_and_holds_the_runs_values_and_the_changes(tmp_path):
    run = TrainingConfig.from_config_dict(
        {
            "model_name": "tiny",
            "workdir": "runs/a",
            "data": {"path": 'odd "path"\n'},
            "lora": {"rank": 4},
        }
    )
    iteration = propose(found(4), run, {"converged": "converged"})
    text = render_card(run, iteration, workdir="runs/b", place="runs/comparison/next.py")
    (tmp_path / "next.py").write_text(text)
    config = TrainingConfig.from_config_dict(load_card(str(tmp_path / "next.py")))
    expected = dataclasses.replace(
        run,
        workdir="runs/b",
        lora=dataclasses.replace(run.lora, rank=8, targets=tuple(iteration.changes[1].after)),
    )
    assert config == expected
    assert "seen:m.f0, seen:m.f1, seen:m.f2" in text


def test_an_id_cannot_leave_its_comment(tmp_path):
    evil = 'x\nimport os; os.abort()\n"""\nos.abort()\u2028\\'
    iteration = NextIteration((Change("epochs", 2, 4, evil, (evil,)),), "")
    text = render_card(RUN, iteration, workdir="runs/b", place=evil)
    (tmp_path / "next.py").write_text(text)
    load_card(str(tmp_path / "next.py"))
    assert not [line for line in text.splitlines() if line.startswith(("import os", "os."))]


def test_a_card_that_is_not_valid_is_not_left_behind(tmp_path):
    path = tmp_path / "next.py"
    path.write_text("the former card")

    def refuse(card):
        assert card.read_text() == "text"
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        write_card(path, "text", validate=refuse)
    assert path.read_text() == "the former card"
    assert [each.name for each in tmp_path.iterdir()] == ["next.py"]
    write_card(path, "text", validate=lambda card: None)
    assert path.read_text() == "text"


def test_a_runs_configuration_of_another_version_is_read(tmp_path):
    values = json.loads(json.dumps(dataclasses.replace(RUN, seed=3).to_dict()))
    values["origins"] = {"seed": "program"}
    values["gone"] = {"option": 1}
    values["lora"]["gone"] = 2
    del values["step"]
    assert configuration_of(values) == dataclasses.replace(RUN, seed=3)
