"""What `benchmarks.topologies` makes of answers."""

from __future__ import annotations

import copy

from benchmarks.topologies import CELLS, TOO_LARGE, command, page, tell

GIB = 2**30
BOUND = {
    "compute_s": 0.1,
    "memory_s": 0.05,
    "links_s": 0.01,
    "binds": "compute",
    "at_best": {"step_s": 0.1, "mfu": 0.5, "positions_per_day": 1e10},
    "in_turn": {"step_s": 0.16, "mfu": 0.3125, "positions_per_day": 6e9},
}
PLAN = {
    "mesh": {"data": 2, "fsdp": 4, "tensor": 1},
    "batch_size": 8,
    "memory_bytes": 9 * GIB,
    "flops": 1.1e13,
    "bytes": 0.9e11,
    "link_bytes": 1e9,
}
ANSWER = {
    "num_chips": 8,
    "chip_memory_bytes": 15.75 * GIB,
    "fits": True,
    "compiled": [
        {
            "plan": PLAN,
            "bound": BOUND,
            "kernel_flops": 1e12,
            "evaluation": {"needed_bytes": 4 * GIB},
            "train": {
                "fits": True,
                "needed_bytes": 10 * GIB,
                "memory": {"temporaries": 2 * GIB},
                "held": {"frozen": 7 * GIB, "trained": 2**20, "optimizer": 2**21},
                "costs": {
                    "flops": 0.9e13,
                    "bytes": 1e11,
                    "collectives": [
                        {
                            "kind": "all-gather",
                            "axes": ["fsdp"],
                            "group": 4,
                            "times": 68.0,
                            "bytes": 2e9,
                        }
                    ],
                },
                "xla": {"flops": 1e12, "bytes accessed": 1e10},
                "compile_s": 100.0,
                "lower_s": 5.0,
                "host_peak_bytes": 3e9,
            },
        }
    ],
}


def test_tables_tell_what_was_compiled_and_by_how_much_the_screen_was_off():
    text = tell({"4B on v5e-8": ANSWER}, None)
    for part in (
        "| 4B on v5e-8 | 8 | 2 x 4 x 1 | 8 | yes | 10.00 | 15.75 | 9.00 (-10%) | 7.00 | 3.0 MiB |",
        "| 4B on v5e-8 | 1e+13 | 1e+12 | +10% | 1e+12 | 1e+11 | -10% | 1e+10 | 2e+09 | -50% |",
        "| 100 ms | 50 ms | 10 ms | compute | 100 ms | 50% | 160 ms | 31% | 6.00 billion |",
        "| 4B on v5e-8 | all-gather | fsdp (4) | 68 | 2e+09 |",
    ):
        assert part in text, part


def test_of_several_compiled_plans_the_first_that_fits_is_told_of():
    refused = copy.deepcopy(ANSWER["compiled"][0])
    refused["train"] |= {"fits": False, "costs": None, "memory": None}
    answer = ANSWER | {"compiled": [refused, *ANSWER["compiled"]]}
    assert tell({"a": answer}, None) == tell({"a": ANSWER}, None)


def test_a_refused_cell_has_its_memory_and_no_bound():
    refused = copy.deepcopy(ANSWER["compiled"][0])
    refused["train"] |= {"fits": False, "costs": None, "memory": None, "needed_bytes": 20 * GIB}
    del refused["bound"], refused["evaluation"]
    text = tell({"a": ANSWER | {"compiled": [refused], "fits": False}}, None)
    assert "| a | 8 | 2 x 4 x 1 | 8 | no | 20.00 |" in text
    assert "compute |" not in text.split("## Bounds")[1].partition("---")[2]


def test_what_is_too_large_is_told_with_what_would_help():
    answer = ANSWER | {
        "screened": [PLAN],
        "remedies": [{"change": "lora.base=nf4", "memory_bytes": 5 * GIB}],
    }
    text = tell({}, answer)
    assert f"## {TOO_LARGE.title}, which does not fit" in text
    assert "- lora.base=nf4: 5.00 GiB" in text
    assert ", of which the screen leaves 12% to what it does not reckon" in text


def test_every_cell_is_a_command_that_a_person_can_type():
    assert [cell.title for cell in CELLS] == [
        "1B on v5e-8",
        "4B on v5e-8",
        "12B on v6e-8",
        "27B on v5p-64",
        "27B on v5p-64, fsdp",
    ]
    assert "--topology=v5p:2x4x4" in command(CELLS[-1])
    conditions = {"date": "d", "jax": "j", "libtpu": "l", "cores": 2, "machine": "m"}
    assert "--config.model_name=gemma3_1b" in page("", conditions)
