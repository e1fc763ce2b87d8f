"""A laboratory for all faults: rows, a cache of compiled programs, and what nothing happened to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.processes import Lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("faults"))
    lab.write_rows()
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def whole(lab: Lab) -> Path:
    """The folder of a run of one process that nothing happened to."""
    done = lab.launch("whole", faults=f"given={lab.folder / 'given-whole'}").wait()
    assert done.code == 0, done.err
    return lab.folder / "whole"
