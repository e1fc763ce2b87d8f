"""What a machine has of what this program needs; a module for each kind of thing.

    check       one finding; the table, the verdict and the exit code of all of them
    probe       programs that may hang, run beside this one and ended in time
    packages    Python, what is installed and what each extra lacks
    hardware    JAX's devices, cores, memory, hosts
    places      free space where a run writes
    assets      the default model, its conversion, the default data
    accounts    credentials: whether they are set, never what they are
    programs    the sandbox, ScaNN, a browser, git

Nothing is changed, downloaded or repaired, and nothing here fails where a package is missing: that
is what it is asked to find.
"""
