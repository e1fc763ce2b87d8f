"""Every error that ends a command with one line, in one tree.

    Exception
    ├── ValueError
    │   └── UserError            one clear line and exit code 1, never a traceback
    │       ├── ConfigError      a field, a flag or a card is wrong
    │       ├── DataError        a row, a file or a folder is wrong
    │       ├── ModelError       a model is unknown, gated, damaged or does not fit its name
    │       ├── RunError         a run's folder is foreign, finished differently, or no match
    │       └── DeviceError      an accelerator, memory or disk that was asked for is absent
    └── ResumableError           one line and exit code 42: the same command goes on

A message says what was found, what was expected, and what to change, in that order.
`assert` is for our own invariants; it is never how a user learns of a mistake.
"""


class UserError(ValueError):
    """A mistake the user can mend; commands print it as one line and exit with 1."""


class ConfigError(UserError):
    """A configuration field, flag or card is wrong."""


class DataError(UserError):
    """A row, a file or a folder of data is wrong."""


class ModelError(UserError):
    """A model is unknown, gated, damaged, or not what its name says."""


class RunError(UserError):
    """A run's folder belongs to something else or cannot be continued as asked."""


class DeviceError(UserError):
    """A device, memory or disk that was asked for is not there."""


class ResumableError(Exception):
    """The run stopped for a reason that a retry may not meet; the same command goes on; exit 42."""


class UnknownKeyError(ConfigError, AttributeError, KeyError):
    """A key that no configuration has; also what attributes and mappings raise in Python."""

    __str__ = Exception.__str__  # KeyError's would put the line in quotes
