"""What the configurations of a page and an endpoint must hold alike: names, and a token's variable.

hosts=box.example.com,::1       what Host carries is compared with these, its port left out
token_variable=SERVE_TOKEN      a name whose value `redaction` blots out of what is written
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from coderllm_jax.errors import ConfigError

# Values of such variables are blotted out of whatever is written; see `redaction`.
_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(TOKEN|KEY|SECRET|PASSWORD)")
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")


def check_access(
    *, hosts: Sequence[str], token_variable: str, section: str = "", example: str
) -> None:
    """ConfigError where a name could never match, or the token would be shown or misread.

    `section` is put before the options' names; `example` is a variable that would do.
    """
    for host in hosts:
        if not _HOST_NAME.fullmatch(host) and not _is_address(host.strip("[]")):
            raise ConfigError(
                f"{section}hosts has {host!r}; expected names and addresses alone, such as "
                "box.example.com; leave out http:// and the port"
            )
    said = f"{section}token_variable is {token_variable!r}"
    if not _SECRET_NAME.fullmatch(token_variable):
        raise ConfigError(
            f"{said}; expected a variable's name that ends in TOKEN, KEY, SECRET or PASSWORD, "
            f"such as {example}"
        )
    if token_variable.upper().startswith("CODERLLM_"):
        raise ConfigError(
            f"{said}, which would be read as an option; expected a name without CODERLLM_, such as "
            f"{example}"
        )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
