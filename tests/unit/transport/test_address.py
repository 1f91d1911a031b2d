"""What an operator may write as an address, and that no credential is ever shown."""

import pytest

from agentlayers.errors import SettingsError
from agentlayers.transport.address import (
    check_tenant,
    check_token,
    normalize_websocket_url,
    parse_tcp_url,
)

SECRET = "s3cr3t-t0ken"


@pytest.mark.parametrize(
    ("given", "tenant", "expected"),
    [
        ("ws://127.0.0.1:8787", None, "ws://127.0.0.1:8787/event-log"),
        ("ws://127.0.0.1:8787/", None, "ws://127.0.0.1:8787/event-log"),
        ("ws://127.0.0.1:8787/event-log", None, "ws://127.0.0.1:8787/event-log"),
        ("ws://127.0.0.1:8787/event-log/", "team", "ws://127.0.0.1:8787/event-log/team"),
        ("ws://127.0.0.1:8787", "team", "ws://127.0.0.1:8787/event-log/team"),
        ("ws://127.0.0.1:8787/event-log/team", "team", "ws://127.0.0.1:8787/event-log/team"),
        ("ws://127.0.0.1:8787/event-log", "event-log", "ws://127.0.0.1:8787/event-log/event-log"),
        ("http://localhost/x/event-log", None, "ws://localhost/x/event-log"),
        ("https://sync.example.org", "a", "wss://sync.example.org/event-log/a"),
        ("wss://[::1]:9/event-log", None, "wss://[::1]:9/event-log"),
        ("  ws://h  ", None, "ws://h/event-log"),
    ],
)
def test_a_websocket_address_is_completed(given: str, tenant: str | None, expected: str) -> None:
    """Scheme, path and tenant are filled in; nothing else changes."""
    assert expected == normalize_websocket_url(given, tenant)


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8787", "ftp://h", "ws://", "ws://h:notaport", "ws://h:99999", "tcp://h:1"],
)
def test_what_is_no_websocket_address_is_refused(url: str) -> None:
    """The error says what would be right."""
    with pytest.raises(SettingsError, match="expected a WebSocket address"):
        normalize_websocket_url(url)


@pytest.mark.parametrize(
    "url",
    [
        f"ws://h/event-log?token={SECRET}",
        f"ws://{SECRET}@h/event-log",
        f"ws://user:{SECRET}@h/event-log",
        f"ws://h/event-log#{SECRET}",
        f"ws://{SECRET}@h:notaport/",
    ],
)
def test_credentials_in_a_websocket_address_are_refused_and_not_shown(url: str) -> None:
    """Neither the text nor the representation of the error repeats them."""
    with pytest.raises(SettingsError) as caught:
        normalize_websocket_url(url)

    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert "token=" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("tcp://127.0.0.1:8788", ("127.0.0.1", 8788, False)),
        ("tls://sync.example.org:1/", ("sync.example.org", 1, True)),
        ("tcp://[::1]:8788", ("::1", 8788, False)),
    ],
)
def test_a_tcp_address_is_split(url: str, expected: tuple[str, int, bool]) -> None:
    """Host, port, and whether TLS is asked for."""
    assert expected == parse_tcp_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "tcp://h",
        "ws://h:1",
        "tcp://h:0",
        "tcp://h:1/path",
        f"tcp://h:1?token={SECRET}",
        f"tcp://{SECRET}@h:1",
    ],
)
def test_what_is_no_tcp_address_is_refused(url: str) -> None:
    """The error says what would be right, and repeats no credential."""
    with pytest.raises(SettingsError, match="expected a TCP address") as caught:
        parse_tcp_url(url)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("token", ["two words", "line\nend", "tab\t", "ümlaut", "\x00"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str) -> None:
    """A line end in it could forge further headers."""
    with pytest.raises(SettingsError) as caught:
        check_token(token)

    assert token not in str(caught.value)


@pytest.mark.parametrize(("token", "expected"), [(None, None), ("", None), ("a-b_c.d", "a-b_c.d")])
def test_an_empty_token_counts_as_none(token: str | None, expected: str | None) -> None:
    """An unset variable interpolated into YAML is an empty text."""
    assert expected == check_token(token)


@pytest.mark.parametrize("tenant", ["", "a/b", "a?b", "a b", ".", "..", "x" * 129, "a\nb", "a\\b"])
def test_a_tenant_that_would_change_the_path_is_refused(tenant: str) -> None:
    """It becomes one segment of a path."""
    with pytest.raises(SettingsError):
        check_tenant(tenant)
