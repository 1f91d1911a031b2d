"""
Who may enter which tenant.

Tokens are kept as hashes, so none shows in a repr, a traceback or a core dump by accident, and they are
compared in constant time. Where a token is looked for in a request is in :func:`bearer_token`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, Self

from agentlayers.errors import AuthenticationError, AuthorizationError, SettingsError

if TYPE_CHECKING:
    from agentlayers.layer import Layer

__all__ = [
    "ANY_TENANT",
    "DEFAULT_TENANT",
    "SUBPROTOCOL_PREFIX",
    "Authenticator",
    "bearer_token",
    "check_tenant_name",
    "offered_subprotocol",
]

ANY_TENANT: Final = "*"
"""Key of the tokens that open every tenant without tokens of its own."""

DEFAULT_TENANT: Final = "default"
"""The tenant of plain ``/event-log`` and of a TCP peer that names none."""

SUBPROTOCOL_PREFIX: Final = "sync-auth."
_TENANT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}")


def check_tenant_name(tenant: str) -> str:
    """
    Return ``tenant`` if it may be one.

    Raises:
        AuthorizationError: It is not 1 to 128 of ``A-Z a-z 0-9 . _ -``, or does not start with a letter or digit.
    """
    if _TENANT_NAME.fullmatch(tenant) is None:
        raise AuthorizationError(
            "no such tenant: a tenant's name is 1 to 128 letters, digits, '.', '_' or '-',"
            " and starts with a letter or a digit"
        )
    return tenant


class Authenticator:
    """
    Decides by bearer tokens, one or several for each tenant.

    Args:
        tokens: Tenant name (or ``*`` for every tenant that has none of its own) to its token or tokens;
            several, so that one can be replaced without a moment in which none works. Empty: everybody may enter.
        query_tokens: Also accept ``?token=`` in the URL. Off, because URLs end up in logs and histories.

    Raises:
        SettingsError: A tenant's name or a token that could never be sent.
    """

    def __init__(
        self,
        tokens: Mapping[str, str | Iterable[str]] | None = None,
        *,
        query_tokens: bool = False,
    ) -> None:
        self._digests = {_checked_tenant(tenant): _digests(tenant, given) for tenant, given in (tokens or {}).items()}
        self.query_tokens = query_tokens

    def __repr__(self) -> str:
        return f"Authenticator(tenants={sorted(self._digests)}, query_tokens={self.query_tokens})"

    @classmethod
    def open_(cls) -> Self:
        """Let everybody in; for loopback, or a network that does its own checking."""
        return cls()

    @classmethod
    def single_token(cls, token: str, *, query_tokens: bool = False) -> Self:
        """Open every tenant with one token."""
        return cls({ANY_TENANT: token}, query_tokens=query_tokens)

    @classmethod
    def optional_token(cls, token: str | None = None) -> Self:
        """Open every tenant with one token, or ask for none if it is empty: an unset variable."""
        return cls.single_token(token) if token else cls.open_()

    @staticmethod
    def layer_open() -> Layer:
        """Provide :meth:`open_`."""
        from agentlayers.layer import Layer

        return Layer.factory(Authenticator, Authenticator)

    @staticmethod
    def layer_tokens(tokens: Mapping[str, str | Iterable[str]], *, query_tokens: bool = False) -> Layer:
        """Provide an authenticator with these tokens."""
        from agentlayers.layer import Layer

        return Layer.factory(Authenticator, Authenticator, tokens=tokens, query_tokens=query_tokens)

    @property
    def is_open(self) -> bool:
        """Whether no token is asked for."""
        return not self._digests

    def has_own_tokens(self, tenant: str) -> bool:
        """Whether a tenant has tokens of its own, which nothing else stands for."""
        return tenant in self._digests

    def authenticate(self, tenant: str, token: str | None, *, has_certificate: bool = False) -> None:
        """
        Let a peer into a tenant, or raise.

        A client certificate stands for the token of ``*``: it opens every tenant without tokens of its own.

        The texts never say whether the tenant exists, and never show the token.

        Raises:
            AuthenticationError: No token, or a wrong one.
            AuthorizationError: The name can be no tenant's.
        """
        check_tenant_name(tenant)
        if self.is_open or (has_certificate and not self.has_own_tokens(tenant)):
            return
        if not token:
            raise AuthenticationError("a token is required; send it as 'Authorization: Bearer <token>'")
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        accepted = self._digests.get(tenant) or self._digests.get(ANY_TENANT, ())
        # Every candidate is compared, so that the time taken does not depend on which one matches.
        matches = [hmac.compare_digest(digest, candidate) for candidate in accepted]
        if not any(matches):
            raise AuthenticationError("this token does not open this tenant")


def bearer_token(authorization: str | None, subprotocols: str | None, query_token: str | None = None) -> str | None:
    """
    Find the token in what a WebSocket client sent.

    Args:
        authorization: The ``Authorization`` header.
        subprotocols: The ``Sec-WebSocket-Protocol`` header: a browser can set no other.
        query_token: ``?token=``, if the server accepts it.

    >>> bearer_token("Bearer abc", None), bearer_token(None, "x, sync-auth.abc"), bearer_token("Basic abc", None)
    ('abc', 'abc', None)

    """
    if authorization is not None:
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    offered = offered_subprotocol(subprotocols)
    if offered is not None:
        return offered.removeprefix(SUBPROTOCOL_PREFIX)
    return query_token or None


def offered_subprotocol(subprotocols: str | None) -> str | None:
    """Return the offered ``sync-auth.<token>``: a browser wants it echoed, or it drops the connection."""
    for offered in (subprotocols or "").split(","):
        if offered.strip().startswith(SUBPROTOCOL_PREFIX):
            return offered.strip()
    return None


def _checked_tenant(tenant: str) -> str:
    if tenant != ANY_TENANT and _TENANT_NAME.fullmatch(tenant) is None:
        raise SettingsError(
            setting="auth.tokens",
            value=tenant,
            expected="a tenant name (letters, digits, '.', '_', '-'; at most 128) or '*'",
        )
    return tenant


def _digests(tenant: str, given: str | Iterable[str]) -> tuple[bytes, ...]:
    tokens = (given,) if isinstance(given, str) else tuple(given)
    usable = [isinstance(token, str) and _TOKEN.fullmatch(token) is not None for token in tokens]
    if not tokens or not all(usable):
        raise SettingsError(
            setting=f"auth.tokens.{tenant}",
            expected="a token of 1 to 4096 printable characters without spaces",
            secret=True,
        )
    return tuple(hashlib.sha256(token.encode()).digest() for token in tokens)
