"""
Check what an operator wrote as a server's address, its token and its tenant.

Pure text in, text out. A credential inside an address would end in logs, process lists and proxies,
so it is refused here, with an error that does not repeat it.
"""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import SplitResult, quote, urlsplit

from agentlayers.errors import SettingsError

__all__ = [
    "DEFAULT_TENANT",
    "check_tenant",
    "check_token",
    "has_tls",
    "normalize_websocket_url",
    "parse_tcp_url",
    "server_medium",
]

DEFAULT_TENANT: Final = "default"
"""The tenant of a connection that names none."""

_WEBSOCKET_SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_TCP_SCHEMES: Final = ("tcp", "tls")
_TLS_SCHEMES: Final = ("wss", "https", "tls")

_WEBSOCKET: Final = "a WebSocket address such as 'wss://sync.example.org' or 'ws://127.0.0.1:8787/event-log'"
_TCP: Final = "a TCP address such as 'tls://sync.example.org:8788' or 'tcp://127.0.0.1:8788'"
_SERVER: Final = "the address of a sync server, which begins with ws://, wss://, tcp:// or tls://"


def server_medium(url: str) -> Literal["websocket", "tcp"]:
    """
    Tell from a server's address how it is reached; ``http`` and ``https`` stand for ``ws`` and ``wss``.

    Raises:
        SettingsError: No such address, or one that carries credentials; it is checked to its end.

    >>> server_medium("https://sync.example.org"), server_medium("tls://sync.example.org:8788")
    ('websocket', 'tcp')

    """
    scheme = _split(url, (*_WEBSOCKET_SCHEMES, *_TCP_SCHEMES), right=_SERVER).scheme
    if scheme in _TCP_SCHEMES:
        parse_tcp_url(url)
        return "tcp"
    normalize_websocket_url(url)
    return "websocket"


def has_tls(url: str) -> bool:
    """
    Tell whether an address asks for TLS.

    >>> has_tls("HTTPS://sync.example.org"), has_tls("tcp://127.0.0.1:8788")
    (True, False)

    """
    return url.strip().partition("://")[0].lower() in _TLS_SCHEMES


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
    parts = _split(url, tuple(_WEBSOCKET_SCHEMES), right=_WEBSOCKET)
    path = parts.path.rstrip("/") or "/event-log"
    if tenant is not None:
        segment = quote(check_tenant(tenant), safe="")
        if path.rsplit("/", 1)[-1] != segment or path == "/event-log":
            path = f"{path}/{segment}"
    return f"{_WEBSOCKET_SCHEMES[parts.scheme]}://{parts.netloc}{path}"


def parse_tcp_url(url: str) -> tuple[str, int, bool]:
    """
    Split ``tcp://host:port`` or ``tls://host:port`` into host, port and whether TLS is asked for.

    Raises:
        SettingsError: Not such an address, or one that carries credentials, a path or a query.

    >>> parse_tcp_url("tls://[::1]:8788")
    ('::1', 8788, True)

    """
    parts = _split(url, _TCP_SCHEMES, right=_TCP)
    if parts.port is None:
        raise _refused(url, _TCP, "the port is missing")
    if parts.path.strip("/"):
        raise _refused(url, _TCP, "there is a path, which TCP does not have (give the tenant as tenant=...)")
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


def _split(url: str, schemes: tuple[str, ...], *, right: str) -> SplitResult:
    """Split an address that has one of the schemes, a host, and no port or a possible one."""
    text = url.strip() if isinstance(url, str) else ""
    # Whatever stands before an "@" or behind a "?" may be a credential, so it is not shown.
    if set(text) & set("@?#"):
        wrong = (
            "user, password, query or fragment in it would end up in logs; give the token as token=... (--token-file)"
        )
        raise _refused(None, right, wrong)
    if not text.isprintable() or " " in text:
        raise _refused(None, right, "it holds spaces or control characters")
    if "://" not in text:
        raise _refused(text, right, "its beginning, such as ws://, is missing" if text else "it is empty")
    try:
        parts = urlsplit(text)
        is_possible = parts.port is None or parts.port > 0
    except ValueError:
        # "ws://user:password" is one of these, so it is not shown either.
        raise _refused(None, right, "its host or its port (1 to 65535) cannot be read") from None
    if parts.scheme not in schemes:
        raise _refused(text, right, f"this one begins with {parts.scheme}://")
    if not parts.hostname:
        raise _refused(text, right, "the host is missing")
    if not is_possible:
        raise _refused(text, right, "the port is not from 1 to 65535")
    return parts


def _refused(shown: str | None, right: str, wrong: str) -> SettingsError:
    return SettingsError(setting="url", value=shown, expected=f"{right}; {wrong}", secret=shown is None)
