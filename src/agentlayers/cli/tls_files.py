"""Where a command finds the certificates for TLS: the options, or the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from agentlayers.transport.address import has_tls

if TYPE_CHECKING:
    from agentlayers.transport.transport import TLSFiles

__all__ = ["tls_files"]

_VARIABLES: Final = {"ca": "SYNC_CA", "client_cert": "SYNC_CLIENT_CERT", "client_key": "SYNC_CLIENT_KEY"}


def tls_files(
    *urls: str, ca: Path | None = None, client_cert: Path | None = None, client_key: Path | None = None
) -> list[TLSFiles]:
    """
    Return the files that the transport to each server is to use.

    A server that is reached without TLS gets none, unless all are: then the options were a mistake, which its
    transport will name. Variables never are one.

    Args:
        urls: The servers.
        ca: Of ``--ca``.
        client_cert: Of ``--client-cert``.
        client_key: Of ``--client-key``.
    """
    options = {"ca": ca, "client_cert": client_cert, "client_key": client_key}
    given = {name: str(path) for name, path in options.items() if path is not None}
    # A key from elsewhere would not be the given certificate's.
    names = ["ca"] if client_cert is not None else [*_VARIABLES]
    with_tls = {name: value for name in names if (value := os.environ.get(_VARIABLES[name]))} | given
    without = {} if any(map(has_tls, urls)) else given
    return [cast("TLSFiles", with_tls if has_tls(url) else without) for url in urls]
