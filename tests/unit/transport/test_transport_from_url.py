"""One way from a server's address to its transport, whoever asks; and what is said of a wrong one."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from agentlayers.errors import SettingsError
from agentlayers.runtime.agent_runtime import AgentRuntime
from agentlayers.sync.service import SyncService
from agentlayers.transport.tcp import TCPTransport
from agentlayers.transport.transport import Transport
from agentlayers.transport.websocket import WebSocketTransport

SECRET = "s3cr3t-w0rd"

WAYS: dict[str, Callable[[str], object]] = {
    "from_url": Transport.from_url,
    "layer_url": Transport.layer_url,
    "with_remote_sync": SyncService.with_remote_sync,
    "layer_with_remote_sync": AgentRuntime.layer_with_remote_sync,
}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://h", WebSocketTransport("ws://h", "t", "a")),
        ("wss://h:1/event-log", WebSocketTransport("wss://h:1/event-log", "t", "a")),
        ("WSS://h", WebSocketTransport("wss://h", "t", "a")),
        ("http://h", WebSocketTransport("ws://h", "t", "a")),
        ("https://h/x", WebSocketTransport("wss://h/x", "t", "a")),
        ("tcp://h:1", TCPTransport("tcp://h:1", "t", "a")),
        ("tls://[::1]:8788", TCPTransport("tls://[::1]:8788", "t", "a")),
        (" tls://h:1 ", TCPTransport("tls://h:1", "t", "a")),
    ],
)
async def test_each_scheme_leads_to_its_transport(url: str, expected: Transport) -> None:
    assert Transport.from_url(url, "t", "a") == expected
    async with Transport.layer_url(url, "t", "a").build(Transport) as built:
        assert built == expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("url", "right", "wrong"),
    [
        ("ftp://h", "begins with ws://, wss://, tcp:// or tls://", "'ftp://h'.*this one begins with ftp://"),
        ("127.0.0.1:8787", "begins with ws://", "'127.0.0.1:8787'.*its beginning, such as ws://, is missing"),
        ("localhost:8787", "begins with ws://", "its beginning, such as ws://, is missing"),
        ("", "begins with ws://", "it is empty"),
        ("ws://", "the address of a sync server", "the host is missing"),
        ("tcp://:1", "the address of a sync server", "the host is missing"),
        ("ws://h:99999", "the address of a sync server", "its host or its port .1 to 65535. cannot be read"),
        ("ws://h:port", "the address of a sync server", "its host or its port .1 to 65535. cannot be read"),
        ("ws://[::1", "the address of a sync server", "its host or its port"),
        ("wss://h:0", "the address of a sync server", "the port is not from 1 to 65535"),
        ("tcp://h", "a TCP address such as", "the port is missing"),
        ("tls://h:1/team", "a TCP address such as", "a path, which TCP does not have .give the tenant as tenant="),
        ("ws://h\n.example.org", "the address of a sync server", "spaces or control characters"),
    ],
)
def test_a_wrong_address_is_refused_at_once_with_what_is_wrong(way: str, url: str, right: str, wrong: str) -> None:
    """The same text in each way, so that nobody has to learn four."""
    with pytest.raises(SettingsError, match=f"{wrong}") as caught:
        WAYS[way](url)

    assert right in str(caught.value)
    assert str(caught.value).startswith("url: ")
    with pytest.raises(SettingsError) as other:
        Transport.from_url(url)
    assert str(caught.value) == str(other.value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "url",
    [
        f"ws://user:{SECRET}@h/event-log",
        f"https://{SECRET}@h",
        f"tcp://user:{SECRET}@h:1",
        f"tls://h:1?token={SECRET}",
        f"ws://h/#{SECRET}",
        f"ftp://user:{SECRET}@h",
        f"user:{SECRET}@h",
        f"ws://user:{SECRET}",
    ],
)
def test_credentials_in_an_address_are_refused_and_never_shown(
    way: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(SettingsError) as caught:
        WAYS[way](url)

    assert SECRET not in f"{caught.value}{caught.value!r}{caught.value.__cause__!r}{caplog.text}"
    if "@" in url:
        assert "give the token as token=... (--token-file)" in str(caught.value)
