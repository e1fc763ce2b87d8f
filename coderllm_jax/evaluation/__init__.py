"""The testing service: tasks, the sandbox, the judge, metrics, statistics.

seccomp        which system calls a sandboxed program may make
python_files   which files of this Python a sandbox sees, and how root hands them down
bubblewrap     the command line that starts a sandbox: what it grants
trial          whether this machine can contain a program
sandbox        a program in it, with limits; or the reason why not
observations   tests split into what a candidate sees and what it never does
tasks          coding tasks: HumanEval's, and evaluation items with tests
extraction     the code in a model's answer
judge          verdicts on programs

results        what suites find, and how it is written       context    what a suite is handed
asking         a cache of answers that survives a kill       items      which questions are asked
suites         one after another, each found once

code_generation   programs asked for and judged              code_metrics   pass@k, code that parses
qa_accuracy       answers held against references            facts, text_metrics, examples, opinions
performance       how long people wait, under load           load, latency, usage
robustness        disturbed, hostile and repeated questions  perturbations, disturbance, survival,
                                                             consistency, stress, ledger
regression        worse than before, and surely so           baseline, pairing
statistics        intervals, tests, power, pairs
"""
