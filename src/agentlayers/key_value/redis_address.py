"""
The address of a Redis server, taken apart so that its password can be kept out of everything shown.

Pure text in, text out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import SplitResult, unquote, urlsplit

from agentlayers.errors import SettingsError

__all__ = ["RedisAddress"]

_SCHEMES: Final = ("redis", "rediss", "unix")
_EXPECTED: Final = (
    "a Redis address such as 'redis://127.0.0.1:6379/0', 'rediss://user:password@redis.example.org' (TLS) "
    "or 'unix:///run/redis.sock', without query"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """
    Where a Redis server is and who we are there.

    Attributes:
        url: Safe to show: the address without its password.
        host: Name or number; empty for a Unix socket.
        port: TCP port.
        path: File of the Unix socket; empty for TCP.
        is_encrypted: TLS is asked for.
        database: Number of the database.
        username: As the server knows us.
        password: Never shown.
    """

    url: str
    host: str = ""
    port: int = 6379
    path: str = ""
    is_encrypted: bool = False
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str, *, password: str | None = None) -> Self:
        """
        Take an address apart.

        Args:
            url: As the operator wrote it.
            password: Instead of one in the address; empty (an unset variable) for none.

        Raises:
            SettingsError: Not such an address; its text does not repeat what may hold the password.

        >>> RedisAddress.parse("redis://:hunter2@cache/2")
        RedisAddress(url='redis://cache:6379/2', host='cache', port=6379, path='', is_encrypted=False, \
database=2, username=None)

        """
        try:
            parts = urlsplit(url.strip())
            port = parts.port or 6379
        except (ValueError, AttributeError):
            raise _refused(url) from None
        if parts.scheme not in _SCHEMES or parts.query or parts.fragment:
            raise _refused(url)
        username = unquote(parts.username) if parts.username else None
        password = password or (unquote(parts.password) if parts.password else None)
        user = f"{parts.username}@" if parts.username else ""
        if parts.scheme == "unix":
            if parts.hostname or len(parts.path) < 2:
                raise _refused(url)
            shown = f"unix://{user}{parts.path}"
            return cls(url=shown, path=unquote(parts.path), username=username, password=password)
        if not parts.hostname:
            raise _refused(url)
        database = _database(url, parts)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(
            url=f"{parts.scheme}://{user}{host}:{port}/{database}",
            host=parts.hostname,
            port=port,
            is_encrypted=parts.scheme == "rediss",
            database=database,
            username=username,
            password=password,
        )


def _database(url: str, parts: SplitResult) -> int:
    text = parts.path.strip("/") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise _refused(url)
    return int(text)


def _refused(url: object) -> SettingsError:
    # Whatever stands in an address that was not understood may be a password.
    is_harmless = isinstance(url, str) and "@" not in url and "?" not in url
    return SettingsError(setting="url", value=url, expected=_EXPECTED, secret=not is_harmless)
