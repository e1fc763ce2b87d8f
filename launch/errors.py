"""How a launch ends other than well.

LaunchError   a mistake that the user can mend: one line, exit code 1
StoppedError       a signal: what is going saves, what was made is cleaned up, exit code 42
"""


class LaunchError(ValueError):
    """What was found, what was expected, what to change; one line."""


class StoppedError(Exception):
    """SIGINT, SIGTERM or SIGHUP came; its name."""
