"""Before a TPU is rented: whether a training run fits it, and what a step would take at best.

    TrainingConfig + v5p:2x4x4 ──► screen: every mesh and batch, by a model of memory and time
                                     │ winners                              (any machine, a second)
                                     ▼
                                   compile: the real steps, in shapes, by libtpu, in a process of
                                     │      its own; no chip, no weights, no download    (minutes)
                                     ▼
                                   HLO ──► memory, FLOPs, bytes, collectives, each loop's as often
                                     │     as it runs
                                     ▼
                                   roofline: seconds, MFU, tokens a day, price ──► table, JSON

    chips       what a chip can do, and which slices there are      catalogue  models' numbers
    plan        one mesh and batch of a configuration               sharing    a chip's part of it
    estimate    memory and time of a plan, by arithmetic            screen     which plans
    hlo, costs  reading a compiled module                           compiling  the child process
    roofline    a bound on the step                                 report     table and JSON

The order of things is `preflighting`; the entry is `__main__`.

Nothing of it measures: a bound says what no step can beat, not what a step will take.
"""
