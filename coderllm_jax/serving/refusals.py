"""What a client is told when it gets no answer: OpenAI's error, with HTTP's status.

    Refusal(400, "temperature is 3; expected 0 to 2", "invalid_value", param="temperature")
      → 400  {"error": {"message": "temperature is 3; ...", "type": "invalid_request_error",
                        "param": "temperature", "code": "invalid_value"}}

Messages are ours, and quote of a request no more than names and numbers: a message may end up in
a log. What might hold a credential all the same is blotted out by `serving.blotting`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from coderllm_jax.serving.blotting import blot

# As nginx has it: the client left before there was an answer.
CLIENT_LEFT = 499

Code = Literal[
    "cancelled",
    "context_length_exceeded",
    "deadline_exceeded",
    "draining",
    "engine_failed",
    "internal_error",
    "invalid_json",
    "invalid_type",
    "invalid_value",
    "loading",
    "method_not_allowed",
    "missing_required_parameter",
    "model_not_found",
    "not_found",
    "queue_full",
    "unknown_parameter",
    "unsupported_media_type",
    "unsupported_parameter",
]


class Refusal(Exception):  # noqa: N818 - it is an answer, and no mistake of ours
    """No answer, and why. retry_after_s: when it is worth asking again, if it ever is."""

    def __init__(
        self,
        status: int,
        message: str,
        code: Code,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, blot(message), code
        self.param = param if param is None else blot(param)
        self.retry_after_s = retry_after_s

    @property
    def type(self) -> str:
        """OpenAI's word for the kind of error, which clients choose their exception by."""
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After in whole seconds, at least one; nothing where asking again is no use."""
        if self.retry_after_s is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}

    def as_json(self) -> dict[str, Any]:
        """The body."""
        said = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": said}
