"""The whole answer: what is compiled, printed and exited with. The compiler is a fake."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from coderllm_jax.config.preflight import PreflightConfig
from coderllm_jax.entry import help_text, resolve_config
from coderllm_jax.errors import ConfigError, DeviceError, ModelError
from coderllm_jax.model.architecture import TINY
from coderllm_jax.preflight import preflighting
from coderllm_jax.preflight.__main__ import SHORTHAND, main
from coderllm_jax.preflight.compiling import Compiled, Memory
from coderllm_jax.preflight.costs import Collective, Costs
from coderllm_jax.preflight.plan import Mesh, replace_options
from coderllm_jax.preflight.preflighting import run_preflight
from coderllm_jax.preflight.report import describe, options_of, to_json

GIB = 2**30
COSTS = Costs(
    flops=197e12 / 10,
    bytes=819e9 / 5,
    collectives=(Collective("all-gather", ("fsdp",), 8, 68.0, 30e9),),
    unknown_loops=(("while.1", 2.0),),
    custom_calls=(),
    flops_of_bodies_once=1e12,
)
HELD = {"frozen": 2.0 * GIB, "trained": 1e6, "optimizer": 2e6, "batch": 4e4}


def compiled(step, *, needed=8.0, fits=True):
    return Compiled(
        step=step,
        memory=Memory(int(2 * GIB), 0, int((needed - 2) * GIB), 0) if fits else None,
        needed_bytes=needed * GIB,
        limit_bytes=None if fits else 15.75 * GIB,
        costs=COSTS if fits else None,
        xla={"flops": 1e12, "bytes accessed": 1e10} if fits else {},
        held=HELD,
        description={
            "precision": "bfloat16",
            "attention": "dense",
            "remat": "block",
            "base": "float",
        },
        lower_s=3.0,
        compile_s=60.0,
        host_peak_bytes=2_000_000_000,
    )


@pytest.fixture
def asked(monkeypatch):
    """The plans and steps that were handed to the compiler; `answers` may be changed."""

    class Asked(list):
        answers = {"train": compiled("train"), "evaluation": compiled("evaluation", needed=3.0)}

    calls = Asked()

    def compile_step(plan, step, *, config, library):
        calls.append((plan, step))
        return calls.answers[step]

    monkeypatch.setattr(preflighting, "compile_step", compile_step)
    monkeypatch.setattr(preflighting, "find_library", lambda config: "libtpu.so")
    return calls


def config(**changes):
    base = {"model_name": "gemma3_4b", "data__sequence_length": 2048}
    return replace_options(PreflightConfig(), base | changes)


def preflight(**changes):
    return run_preflight(config(**changes), note=lambda text: None)


def test_the_best_plan_is_compiled_for_training_and_evaluation(asked):
    found = preflight()
    assert [step for _, step in asked] == ["train", "evaluation"]
    assert asked[0][0] == found.screened[0].plan
    assert found.fits
    assert not found.remedies


def test_only_as_many_as_asked_are_compiled_each_another_mesh(asked):
    preflight(compile__winners=3)
    plans = [plan for plan, step in asked if step == "train"]
    assert len({plan.mesh for plan in plans}) == 3
    assert [step for _, step in asked].count("evaluation") == 1


def test_the_table_has_memory_work_collectives_bound_and_the_plans_options(asked):
    text = describe(preflight())
    for part in (
        "gemma3_4b on v5e:2x4 (Cloud's v5e-8): 8 chips of 15.75 GiB",
        "frozen weights",
        "temporaries",
        "all-gather         fsdp",
        "68 times",
        "compute 100.0 ms, memory 200.0 ms, links 300.0 ms: links binds",
        "a bound on the step, no forecast",
        "FITS, with 7.75 GiB of every chip to spare: --config.mesh.data=",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("lora", "is_said"),
    [
        ({}, False),
        ({"lora__base": "int8", "lora__base_rounding": "calibrated"}, False),
        ({"lora__base": "nf4", "lora__base_rounding": "calibrated"}, True),
    ],
)
def test_what_nobody_looked_at_is_said(asked, lora, is_said):
    assert ("not looked at: lora.base_rounding" in describe(preflight(**lora))) == is_said


def test_what_is_to_spare_is_what_the_larger_step_leaves(asked):
    asked.answers["evaluation"] = compiled("evaluation", needed=15.0)
    said = "FITS, with 0.75 GiB of every chip to spare in the evaluation step: --config.mesh"
    assert said in describe(preflight())


def test_the_table_says_what_lies_in_a_chips_memory(asked):
    text = describe(preflight())
    for name, size in (
        ("frozen weights", "2.00 GiB"),
        ("adapters", "1.0 MiB"),
        ("optimizer state", "1.9 MiB"),
        ("arguments, all of the above", "2.00 GiB"),
        ("temporaries", "6.00 GiB"),
        ("program", "0.0 MiB"),
        ("(evaluation step, in all)", "3.00 GiB"),
    ):
        assert re.search(rf"^    {re.escape(name)} +{size}$", text, re.MULTILINE), name
    whole = compiled("train")._replace(held=HELD | {"frozen": 0.0})
    asked.answers["train"] = whole
    assert re.search(r"^    weights +1\.0 MiB$", describe(preflight()), re.MULTILINE)


def test_what_a_step_takes_in_a_day_and_for_a_million_positions(asked):
    found = preflight(prices__tpu_chip_hour=1.5, batch_size=16)
    daily = 2048 * found.winners[0].screened.plan.config.batch_size * 86_400 / 0.3
    text = describe(found)
    assert f"{daily / 1e9:.2f} billion positions a day" in text
    assert f"{1.5 * 24 * 8 / daily * 1e6:.4f} USD a million" in text


def test_products_of_attentions_kernels_are_added_by_formula(asked):
    """No count of a module sees into them."""
    train = compiled("train")
    described = train.description | {"attention": "splash"}
    asked.answers["train"] = train._replace(description=described)
    found = preflight()
    [winner] = found.winners
    kernels = winner.screened.estimate.attention_flops
    assert kernels > 0
    assert winner.bound.compute_s == pytest.approx((COSTS.flops + kernels) / 197e12)
    text = describe(found)
    assert f"of attention's kernels {kernels:>12.3g}   by formula" in text
    assert f"{COSTS.flops + kernels:.3g}" in text
    asked.answers["train"] = train
    assert preflight().winners[0].kernel_flops == 0


def test_a_plan_is_told_as_what_to_write(asked):
    options = {"mesh__data": 1, "mesh__fsdp": 4, "mesh__tensor": 2}
    assert options_of(preflight(**options).screened[0]).startswith(
        "--config.mesh.data=1 --config.mesh.fsdp=4 --config.mesh.tensor=2 --config.batch_size="
    )


def test_the_file_has_the_screens_figures_under_their_names(asked):
    found = preflight()
    told, reckoned = to_json(found)["screened"][0], found.screened[0].estimate
    for name, value in {
        "memory_bytes": reckoned.memory_bytes,
        "kept_bytes": reckoned.kept,
        "working_bytes": reckoned.working,
        "gathered_bytes": reckoned.gathered,
        "gradient_bytes": reckoned.gradients,
        "flops": reckoned.flops,
        "bytes": reckoned.bytes,
        "link_bytes": sum(each.bytes for each in reckoned.collectives),
        "model_flops": reckoned.model_flops,
    }.items():
        assert told[name] == value, name


def test_at_best_and_in_turn_are_told_with_their_mfu(asked):
    found = to_json(preflight())
    bound = found["compiled"][0]["bound"]
    assert bound["at_best"]["step_s"] == pytest.approx(0.3)
    assert bound["in_turn"]["step_s"] == pytest.approx(0.6)
    owed = found["compiled"][0]["plan"]["model_flops"]
    assert bound["at_best"]["mfu"] == pytest.approx(owed / 0.3 / (8 * 197e12))
    json.dumps(found)


def test_money_is_told_only_where_a_price_was_set(asked):
    assert "USD" not in describe(preflight())
    text = describe(preflight(prices__tpu_chip_hour=1.5, prices__source="our contract, 2026-11"))
    assert "USD a million at 1.5 a chip-hour (our contract, 2026-11)" in text


def test_what_the_compiler_refuses_does_not_fit_whatever_the_screen_said(asked):
    asked.answers["train"] = compiled("train", needed=20.0, fits=False)
    found = preflight()
    assert not found.fits
    text = describe(found)
    assert "DOES NOT FIT: the train step needs 20.00 GiB of every chip, 4.25 GiB too much" in text
    missed = 20 * GIB - found.winners[0].screened.estimate.memory_bytes
    assert found.remedies
    assert all(remedy.screened.spare_bytes >= missed for remedy in found.remedies)


def test_what_is_too_much_is_reckoned_from_the_limit_that_the_compiler_names(asked):
    refused = compiled("train", needed=20.0, fits=False)._replace(limit_bytes=15 * GIB)
    asked.answers["train"] = refused
    assert "20.00 GiB of every chip, 5.00 GiB too much" in describe(preflight())


def test_of_several_that_fit_the_first_is_told(asked, monkeypatch):
    needed = iter((8.0, 3.0, 9.0))

    def compile_step(plan, step, *, config, library):
        asked.append((plan, step))
        return compiled(step, needed=next(needed))

    monkeypatch.setattr(preflighting, "compile_step", compile_step)
    found = preflight(compile__winners=2)
    first = options_of(found.winners[0].screened)
    assert f"FITS, with 7.75 GiB of every chip to spare: {first}" in describe(found)


def test_after_a_refusal_only_a_plan_with_more_to_spare_is_compiled(asked, monkeypatch):
    """13 GiB were needed and the screen had said 8: a plan with 5 to spare or more is next."""

    def compile_step(plan, step, *, config, library):
        asked.append((plan, step))
        return compiled(step, needed=13.0, fits=len(asked) > 1)

    monkeypatch.setattr(preflighting, "compile_step", compile_step)
    found = preflight()
    first, second = found.winners
    assert not first.fits
    assert second.fits
    assert found.fits
    assert second.screened.spare_bytes >= 13 * GIB - first.screened.estimate.memory_bytes
    assert "compiled: v5e:2x4, data 8 x fsdp 1 x tensor 1" in describe(found)


@pytest.mark.parametrize("last_fits", [True, False])
def test_the_plan_with_the_most_to_spare_has_the_last_word(asked, monkeypatch, last_fits):
    """Each of the first needs 2 GiB more than there is, which the screen cannot foresee."""

    def compile_step(plan, step, *, config, library):
        is_roomiest = plan.words == roomiest.plan.words
        needed = (8.0 if last_fits else 16.5) if is_roomiest else 17.75
        asked.append((plan, step))
        return compiled(step, needed=needed, fits=is_roomiest and last_fits)

    screened = preflight(compile__winners=0).screened
    roomiest = max(screened, key=lambda each: each.spare_bytes)
    monkeypatch.setattr(preflighting, "compile_step", compile_step)
    found = preflight(compile__evaluation=False)
    assert found.fits == last_fits
    words = [plan.words for plan, _ in asked]
    assert len(set(words)) == len(words) <= 3
    assert words[-1] == roomiest.plan.words
    if not last_fits:
        assert (
            "DOES NOT FIT: the train step needs 16.50 GiB of every chip, 0.75 GiB too much, "
            f"{roomiest.plan.words}"
        ) in describe(found)


def test_an_evaluation_step_that_does_not_fit_counts(asked):
    asked.answers["evaluation"] = compiled("evaluation", needed=17.0, fits=False)
    found = preflight()
    assert not found.fits
    assert "the evaluation step needs 17.00 GiB" in describe(found)
    missed = 17 * GIB - found.winners[0].screened.estimate.memory_bytes
    assert found.remedies
    assert all(remedy.screened.spare_bytes >= missed for remedy in found.remedies)


def test_where_no_plan_fits_the_nearest_is_shown_to_the_compiler(asked):
    asked.answers["train"] = compiled("train", needed=30.0, fits=False)
    found = preflight(model_name="gemma3_27b", topology="v5e:2x2")
    assert [(plan, step) for plan, step in asked] == [(found.screened[0].plan, "train")]
    assert not found.screened[0].fits
    assert "what would make it fit, by the screen:" in describe(found)
    both = found.remedies[0]._replace(words="batch_size=1 and lora.base=nf4")
    text = describe(found._replace(remedies=[both]))
    assert "\n  --config.batch_size=1 --config.lora.base=nf4 " in text


def test_what_is_printed_as_a_remedy_may_be_typed_behind_what_was_asked():
    """A mesh that was set is no obstacle on other slices, and a remedy names all of its own."""
    asked = [
        "preflight",
        "--config.model_name=gemma3_27b",
        "--config.data.sequence_length=2048",
        "--config.compile.winners=0",
        "--config.batch_size=8",
        "--config.mesh.fsdp=2",
        "--config.mesh.tensor=2",
        "--topology=v5e:2x4",
    ]
    found = _answer(asked)
    assert not found.fits
    printed = describe(found).partition("by the screen:\n")[2].splitlines()
    changes = [re.findall(r"--\S+", line) for line in printed]
    for chip in ("v5e", "v6e", "v5p"):
        assert any(words[0].startswith(f"--topology={chip}:") for words in changes)
    assert ["--config.mesh.data=1", "--config.mesh.fsdp=4", "--config.mesh.tensor=2"] in changes
    for words, remedy in zip(changes, found.remedies, strict=True):
        then = _answer([*asked, *words])
        assert then.fits, words
        assert then.screened[0].plan.words == remedy.screened.plan.words
        assert then.screened[0].estimate == remedy.screened.estimate


def _answer(words):
    card = "configs/lora.py"
    config = resolve_config(words, PreflightConfig, card, environ={}, shorthand=SHORTHAND)
    return run_preflight(config, note=lambda text: None)


def test_without_compiling_no_library_is_needed(monkeypatch):
    def missing(config):
        raise DeviceError("libtpu is not here")

    monkeypatch.setattr(preflighting, "find_library", missing)
    found = preflight(compile__winners=0)
    assert found.fits
    assert "FITS by the screen" in describe(found)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"topology": "v7:2x2"}, ConfigError, "chip v7"),
        ({"topology": "v5e:2x4", "mesh__fsdp": 3}, ConfigError, "make the product 8"),
        ({"model_name": "gemma9"}, ModelError, "are not known here"),
    ],
)
def test_mistakes_are_one_line(asked, changes, error, said):
    with pytest.raises(error) as caught:
        preflight(**changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_base_that_the_model_cannot_have_is_said_before_anything_is_compiled(asked, monkeypatch):
    mixed = dataclasses.replace(TINY, family="gemma4", global_head_size=32, global_kv_heads=1)
    monkeypatch.setattr(preflighting, "find_architecture", lambda name: mixed)
    with pytest.raises(ModelError, match=r"lora\.base is nf4"):
        preflight(lora__base="nf4")
    assert not asked


def test_a_library_that_gives_no_answer_ends_the_command(asked, monkeypatch):
    def no_answer(*arguments, **more):
        raise DeviceError("libtpu gave no answer within 1 s")

    monkeypatch.setattr(preflighting, "compile_step", no_answer)
    with pytest.raises(DeviceError):
        preflight()


def test_topology_and_json_are_written_without_config():
    words = ["preflight", "--topology=v5p-64", "--json", "a.json", "--config=configs/lora.py"]
    found = resolve_config(
        words, PreflightConfig, "configs/lora.py", environ={}, shorthand=SHORTHAND
    )
    assert (found.topology, found.json) == ("v5p-64", "a.json")
    assert found.searches_batch
    assert found.searches_mesh
    usage = help_text(PreflightConfig, "configs/lora.py", SHORTHAND)
    assert "[--topology=VALUE] [--json=VALUE]" in usage


def test_what_a_card_or_the_command_line_set_is_not_searched_for():
    words = ["preflight", "--config.batch_size=4", "--config.mesh.tensor=2"]
    found = resolve_config(words, PreflightConfig, "configs/lora.py", environ={})
    assert not found.searches_batch
    assert not found.searches_mesh
    # What is set to the default is set.
    default = PreflightConfig().batch_size
    words = ["preflight", f"--config.batch_size={default}"]
    found = resolve_config(words, PreflightConfig, "configs/lora.py", environ={})
    assert not found.searches_batch


def test_a_training_runs_own_rules_hold_and_there_is_a_slice():
    with pytest.raises(ConfigError, match=r"lora\.base is nf4 and step\.scan_blocks is off"):
        config(lora__base="nf4", step__scan_blocks="off").check()
    with pytest.raises(ConfigError, match="topology is empty; name a slice"):
        config(topology="").check()


@pytest.mark.parametrize("word", ["mesh.fsdp=1", "mesh.data=-1", "mesh.tensor=1"])
def test_a_mesh_that_was_set_to_its_default_is_not_searched_for(asked, word):
    words = ["preflight", f"--config.{word}", "--config.compile.winners=0"]
    found = resolve_config(words, PreflightConfig, "configs/lora.py", environ={})
    assert not found.searches_mesh
    screened = run_preflight(found, note=lambda text: None).screened
    assert {each.plan.mesh for each in screened} == {Mesh(8, 1, 1)}


@pytest.fixture
def command(monkeypatch):
    """The entry in this process: the screen's answer, its file named by `json`."""
    monkeypatch.setattr("coderllm_jax.training.devices.prepare_process", lambda **_: None)
    return lambda json: main(config(compile__winners=0, json=json))


@pytest.mark.parametrize("name", ["file/answer.json", "folder"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_done(
    command, monkeypatch, tmp_path, name
):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(preflighting, "run_preflight", pytest.fail)
    with pytest.raises((ConfigError, OSError), match=name.partition("/")[0]):
        command(str(tmp_path / name))


def test_the_table_is_printed_though_its_file_is_lost(command, monkeypatch, tmp_path, capsys):
    def loses_the_folder(*arguments, **more):
        (tmp_path / "new").rmdir()
        return run_preflight(*arguments, **more)

    monkeypatch.setattr(preflighting, "run_preflight", loses_the_folder)
    with pytest.raises(FileNotFoundError):
        command(str(tmp_path / "new/answer.json"))
    assert "FITS by the screen" in capsys.readouterr().out


def test_a_file_below_home_is_written_there(command, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command("~/answer.json") == 0
    assert json.loads((tmp_path / "answer.json").read_text())["fits"]


def test_the_command_answers_with_a_code_and_a_file(tmp_path):
    """No fit is an answer: 3, and what would help."""
    file = tmp_path / "answers" / "27b.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "coderllm_jax.preflight",
            "--topology=v5e:1x1",
            f"--json={file}",
            "--config.model_name=gemma3_27b",
            "--config.compile.winners=0",
            f"--config.model.cache_dir={tmp_path}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "DOES NOT FIT by the screen" in done.stdout
    assert not json.loads(file.read_text())["fits"]
