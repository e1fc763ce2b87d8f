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
"""
