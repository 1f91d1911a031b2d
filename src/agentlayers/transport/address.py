"""
Check what an operator wrote as a server's address, its token and its tenant.

Pure text in, text out. A credential inside an address would end in logs, process lists and proxies,
so it is refused here, with an error that does not repeat it.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from agentlayers.errors import SettingsError

__all__ = [
    "DEFAULT_TENANT",
    "check_tenant",
    "check_token",
    "normalize_websocket_url",
    "parse_tcp_url",
]

DEFAULT_TENANT: Final = "default"
"""The tenant of a connection that names none."""

_WEBSOCKET_SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_WEBSOCKET_HELP: Final = (
    "a WebSocket address such as 'wss://sync.example.org' or 'ws://127.0.0.1:8787/event-log', "
    "without credentials or query (give the token as token=...)"
)
_TCP_HELP: Final = (
    "a TCP address such as 'tcp://127.0.0.1:8788' or 'tls://sync.example.org:8788', "
    "without credentials, path or query (give the token as token=...)"
)


def normalize_websocket_url(url: str, tenant: str | None = None) -> str:
    """
    Return the address to connect to, safe to show.

    ``http`` and ``https`` stand for ``ws`` and ``wss``; a missing path is ``/event-log``; the
    tenant is appended to the path unless it ends with it already.

    Raises:
        SettingsError: Not a WebSocket address, or one that carries credentials or a query.

    >>> normalize_websocket_url("https://sync.example.org")
    'wss://sync.example.org/event-log'
    >>> normalize_websocket_url("ws://127.0.0.1:8787/event-log", "team-a")
    'ws://127.0.0.1:8787/event-log/team-a'

    """
    parts = _split(url, help_text=_WEBSOCKET_HELP)
    scheme = _WEBSOCKET_SCHEMES.get(parts.scheme)
    if scheme is None:
        raise SettingsError(setting="url", value=url, expected=_WEBSOCKET_HELP)
    path = parts.path.rstrip("/") or "/event-log"
    if tenant is not None:
        segment = quote(check_tenant(tenant), safe="")
        if path.rsplit("/", 1)[-1] != segment or path == "/event-log":
            path = f"{path}/{segment}"
    return f"{scheme}://{parts.netloc}{path}"


def parse_tcp_url(url: str) -> tuple[str, int, bool]:
    """
    Split ``tcp://host:port`` or ``tls://host:port`` into host, port and whether TLS is asked for.

    Raises:
        SettingsError: Not such an address, or one that carries credentials, a path or a query.

    >>> parse_tcp_url("tls://[::1]:8788")
    ('::1', 8788, True)

    """
    parts = _split(url, help_text=_TCP_HELP)
    if parts.scheme not in ("tcp", "tls") or parts.path.strip("/") or not parts.port:
        raise SettingsError(setting="url", value=url, expected=_TCP_HELP)
    assert parts.hostname is not None
    return parts.hostname, parts.port, parts.scheme == "tls"


def check_token(token: str | None) -> str | None:
    """
    Return the token, or :obj:`None` for an empty one (an unset variable).

    Raises:
        SettingsError: It holds characters that no header can carry, such as a line end.
    """
    if not token:
        return None
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise SettingsError(
            setting="token",
            expected="printable ASCII characters without spaces or line ends",
            secret=True,
        )
    return token


def check_tenant(tenant: str) -> str:
    """
    Return the tenant's name.

    Raises:
        SettingsError: It holds characters that would change the meaning of a path, or is too long.
    """
    if not 0 < len(tenant) <= 128 or not tenant.isprintable() or set(tenant) & set("/?#\\ "):
        raise SettingsError(
            setting="tenant",
            value=tenant,
            expected="1 to 128 printable characters without spaces, '/', '\\', '?' or '#'",
        )
    if tenant in (".", ".."):
        raise SettingsError(setting="tenant", value=tenant, expected="a name")
    return tenant


def _split(url: str, *, help_text: str) -> SplitResult:
    try:
        parts = urlsplit(url.strip())
        is_usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except (ValueError, AttributeError):
        raise SettingsError(setting="url", expected=help_text, secret=True) from None
    # Whatever stands before an "@" or behind a "?" may be a credential, so it is not shown.
    if "@" in url or parts.query or parts.fragment:
        raise SettingsError(setting="url", expected=help_text, secret=True)
    if not is_usable:
        raise SettingsError(setting="url", value=url, expected=help_text)
    return parts
