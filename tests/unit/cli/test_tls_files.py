"""Certificates go to the servers that are reached with TLS, from options before variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentlayers.cli.tls_files import tls_files

CA, CERT, KEY = Path("ca.pem"), Path("c.pem"), Path("c.key")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYNC_CA", "SYNC_CLIENT_CERT", "SYNC_CLIENT_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_options_go_to_the_servers_with_tls() -> None:
    found = tls_files("ws://a", "wss://b", "tls://c:1", ca=CA)

    assert found == [{}, {"ca": "ca.pem"}, {"ca": "ca.pem"}]


def test_options_that_fit_no_server_are_passed_on_so_that_somebody_says_so() -> None:
    assert tls_files("ws://a", ca=CA) == [{"ca": "ca.pem"}]


def test_variables_stand_for_options_and_are_no_mistake_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNC_CA", "/variable/ca")
    monkeypatch.setenv("SYNC_CLIENT_CERT", "/variable/cert")
    monkeypatch.setenv("SYNC_CLIENT_KEY", "/variable/key")

    everything = {"ca": "/variable/ca", "client_cert": "/variable/cert", "client_key": "/variable/key"}
    assert tls_files("ws://a", "tcp://b:1") == [{}, {}]
    assert tls_files("wss://a") == [everything]
    assert tls_files("wss://a", ca=CA) == [everything | {"ca": "ca.pem"}]


def test_a_given_certificate_never_gets_the_key_of_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNC_CLIENT_KEY", "/variable/key")

    assert tls_files("wss://a", client_cert=CERT) == [{"client_cert": "c.pem"}]
    assert tls_files("wss://a", client_cert=CERT, client_key=KEY) == [{"client_cert": "c.pem", "client_key": "c.key"}]
