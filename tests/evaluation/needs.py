"""A mark for tests that execute generated code: skipped, with the reason, where it is refused."""

from __future__ import annotations

import pytest

from coderllm_jax.evaluation.trial import why_refused

_REASON = why_refused()
needs_sandbox = pytest.mark.skipif(_REASON is not None, reason=_REASON or "")
