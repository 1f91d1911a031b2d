"""Credit: how much of a key may be sent, and how much may be written, is agreed and kept to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentlayers.errors import (
    LimitExceededError,
    LocalProtocolError,
    MalformedMessageError,
    UnexpectedMessageError,
)
from agentlayers.limits import CREDIT_BYTES_MAX, CREDIT_ENTRY_BYTES, WRITE_WINDOW_MESSAGES
from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.credit import CreditAccount
from agentlayers.protocol.events import ChangesReceived, ChangesRequested, CreditGranted
from agentlayers.protocol.messages import (
    CAPABILITY_CREDIT,
    Changes,
    Credit,
    Extensions,
    Hello,
    RemoteEncryptedEntry,
    RequestChanges,
    StopChanges,
    WriteEntries,
    WriteWindow,
)
from agentlayers.protocol.server_session import ServerSession
from agentlayers.protocol.session import SessionState
from agentlayers.protocol.write_ledger import WriteLedger
from unit.protocol.session_pair import KEY, REMOTE, STOCK_HELLO, deliver, entry

CAPABILITIES = frozenset({CAPABILITY_CREDIT, "through", "entry-nonces"})


def opened(window: WriteWindow | None = None, *, is_stream: bool = False) -> tuple[ClientSession, ServerSession]:
    """A client and a server that takes credit."""
    client = ClientSession(is_stream=is_stream)
    hello = Hello(REMOTE, Extensions(1, CAPABILITIES, bytes(16), "default", window))
    server = ServerSession(is_stream=is_stream, hello=hello)
    deliver(server, client)
    return client, server


def received(number: int, size: int = 0) -> RemoteEncryptedEntry:
    return RemoteEncryptedEntry(number, bytes(12), number.to_bytes(16), bytes(size))


# -- the account ---------------------------------------------------------------------------------------------------


def test_an_account_covers_what_it_holds_and_one_entry_of_any_size() -> None:
    account = CreditAccount(1000)

    assert account.covers(1000, 9)
    assert not account.covers(1001, 2)
    assert account.covers(10**9, 1)

    account.spend(10**9)
    assert account.is_spent
    assert not account.covers(1, 1)
    account.grant(10**9)
    assert account.available == 1000


@pytest.mark.parametrize(
    ("available", "sizes", "expected"),
    [
        (0, [1], 0),
        (1, [1], 1),
        (1, [1, 1], 1),
        (2 * CREDIT_ENTRY_BYTES, [0, 0, 0], 2),
        (2 * CREDIT_ENTRY_BYTES + 1, [0, 1, 0], 2),
        (2 * CREDIT_ENTRY_BYTES + 1, [0, 2, 0], 1),
        (10**6, [], 0),
    ],
)
def test_as_many_entries_are_affordable_as_the_account_covers(available: int, sizes: list[int], expected: int) -> None:
    entries = [received(number, size) for number, size in enumerate(sizes)]

    assert CreditAccount(available).affordable(entries) == expected


def test_an_account_has_an_upper_bound() -> None:
    account = CreditAccount(CREDIT_BYTES_MAX)

    with pytest.raises(LimitExceededError, match="CREDIT_BYTES_MAX"):
        account.grant(1)
    with pytest.raises(LimitExceededError, match="CREDIT_BYTES_MAX"):
        CreditAccount(CREDIT_BYTES_MAX + 1)
    assert account.available == CREDIT_BYTES_MAX


# -- the messages ----------------------------------------------------------------------------------------------------


def test_without_a_credit_a_request_is_a_stock_clients_to_the_byte() -> None:
    data = encode_message(RequestChanges(KEY, 7))

    assert b"credit" not in data
    assert decode_message(data) == RequestChanges(KEY, 7, None)
    assert decode_message(encode_message(RequestChanges(KEY, 7, 0))) == RequestChanges(KEY, 7, 0)


def test_a_grant_of_nothing_is_malformed() -> None:
    data = encode_message(Credit(KEY, 0))

    with pytest.raises(MalformedMessageError, match=r"Credit\.amount: 0 grants nothing"):
        decode_message(data)


@pytest.mark.parametrize("window", [WriteWindow(0, 5), WriteWindow(5, 0)])
def test_a_window_in_which_nothing_can_be_written_is_malformed(window: WriteWindow) -> None:
    data = encode_message(Hello(REMOTE, Extensions(1, CAPABILITIES, bytes(16), "t", window)))

    with pytest.raises(MalformedMessageError, match="writeWindow"):
        decode_message(data)


def test_a_window_has_two_numbers() -> None:
    data = encode_message(Hello(REMOTE, Extensions(1, CAPABILITIES, bytes(16), "t", WriteWindow(3, 4))))

    assert decode_message(data.replace(b"\x92\x03\x04", b"\x92\x05\x06")).extensions.write_window == (5, 6)  # type: ignore[union-attr]
    for broken in (b"\x93\x03\x04\x05", b"\x91\x03", b"\x03"):
        with pytest.raises(MalformedMessageError):
            decode_message(data.replace(b"\x92\x03\x04", broken))


# -- the server's side -------------------------------------------------------------------------------------------------


def test_the_account_of_a_request_grows_by_what_the_client_grants() -> None:
    client, server = opened()
    client.request_changes(KEY, 3, 500)
    client.grant_credit(KEY, 20)
    requested, granted = deliver(client, server)

    assert isinstance(requested, ChangesRequested)
    assert (requested.public_key, requested.start_sequence) == (KEY, 3)
    assert requested.credit is not None
    assert requested.credit.available == 520
    assert granted == CreditGranted(KEY)
    assert server.is_ours


def test_a_server_refuses_to_overdraw() -> None:
    client, server = opened()
    client.request_changes(KEY, 0, CREDIT_ENTRY_BYTES)
    deliver(client, server)
    server.send_changes(KEY, [received(0)], 1)

    with pytest.raises(LocalProtocolError, match="the credit is 0"):
        server.send_changes(KEY, [received(1)], 2)
    assert len(deliver(server, client)) == 1


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ((RequestChanges(KEY, 0), Credit(KEY, 5)), UnexpectedMessageError),
        ((RequestChanges(KEY, 0, 5), RequestChanges(KEY, 0), Credit(KEY, 5)), UnexpectedMessageError),
        ((RequestChanges(KEY, 0, CREDIT_BYTES_MAX + 1),), LimitExceededError),
        ((RequestChanges(KEY, 0, CREDIT_BYTES_MAX), Credit(KEY, 1)), LimitExceededError),
        ((RequestChanges(KEY, 0, 1), *[Credit(KEY, 2**52)] * 2), LimitExceededError),
    ],
)
def test_a_nonsense_grant_fails_the_session(messages: tuple[Any, ...], error: type[Exception]) -> None:
    _, server = opened()
    for message in messages:
        server.receive_data(encode_message(message))

    assert isinstance(server.error, error)


def test_credit_for_a_key_that_is_not_followed_is_ignored() -> None:
    """It may have been on its way when the client stopped following."""
    _, server = opened()
    for message in (RequestChanges(KEY, 0, 1), StopChanges(KEY), Credit(KEY, 5)):
        server.receive_data(encode_message(message))

    assert server.error is None
    assert server.ignored_messages == 1


def test_a_new_request_begins_with_its_own_credit() -> None:
    _, server = opened()
    for message in (RequestChanges(KEY, 0, 5000), RequestChanges(KEY, 0, 7), StopChanges(KEY), RequestChanges(KEY, 0)):
        server.receive_data(encode_message(message))
    first, second, _, third = server.events_received()

    assert isinstance(second, ChangesRequested)
    assert second.credit is not None
    assert second.credit.available == 7
    assert isinstance(first, ChangesRequested)
    assert isinstance(third, ChangesRequested)
    assert third.credit is None


def test_a_client_that_gives_credit_has_to_keep_to_the_write_window() -> None:
    """The Acks may wait for its credit, which would not be read any more if too many are owed."""
    _, server = opened()
    server.receive_data(encode_message(RequestChanges(KEY, 0, 5)))
    for number in range(WRITE_WINDOW_MESSAGES):
        server.receive_data(encode_message(WriteEntries(KEY, number, ())))
        server.receive_data(encode_message(WriteEntries("other", 1000 + number, ())))
    server.send_ack(0, (), None)
    server.receive_data(encode_message(WriteEntries(KEY, 2000, ())))
    assert server.state is SessionState.OPEN

    server.receive_data(encode_message(WriteEntries(KEY, 2001, ())))
    assert isinstance(server.error, LimitExceededError)
    assert server.error.limit == "WRITE_WINDOW_MESSAGES"


def test_a_stock_client_may_write_as_it_likes() -> None:
    _, server = opened()
    for number in range(3 * WRITE_WINDOW_MESSAGES):
        server.receive_data(encode_message(WriteEntries(KEY, number, ())))

    assert server.error is None
    assert not server.is_ours


def test_a_client_that_numbers_all_writes_alike_makes_nothing_grow() -> None:
    ledger = WriteLedger(None)
    for number in range(1000):
        ledger.add(7, f"key {number}", 5)

    assert len(ledger._messages) == len(ledger._by_key) == 1


# -- the client's side ----------------------------------------------------------------------------------------------


def overdraw(client: ClientSession, *entries: RemoteEncryptedEntry) -> None:
    client.receive_data(encode_message(Changes(KEY, entries, len(entries))))


def test_a_server_that_overdraws_is_found_out() -> None:
    client, _ = opened()
    client.request_changes(KEY, 0, 3 * CREDIT_ENTRY_BYTES)
    overdraw(client, *[received(0)] * 3)
    assert client.state is SessionState.OPEN

    overdraw(client, received(3))
    assert isinstance(client.error, LimitExceededError)
    assert (client.error.limit, client.error.allowed) == ("credit", 0)


def test_several_entries_may_not_cost_more_than_the_credit_but_one_may() -> None:
    for entries, is_refused in (((received(0, 10**6),), False), ((received(0, 10**6), received(1)), True)):
        client, _ = opened()
        client.request_changes(KEY, 0, 1)
        overdraw(client, *entries)

        assert (client.error is not None) is is_refused


def test_changes_on_their_way_while_a_key_is_requested_again_are_not_held_against_the_server() -> None:
    client, server = opened()
    client.request_changes(KEY, 0, 2 * CREDIT_ENTRY_BYTES)
    deliver(client, server)
    server.send_changes(KEY, [received(0), received(1)], 2)
    client.stop_changes(KEY)
    client.request_changes(KEY, 0, 3 * CREDIT_ENTRY_BYTES)
    deliver(client, server)
    server.send_changes(KEY, [received(0), received(1), received(2)], 3)
    deliver(server, client)

    assert client.error is None


def test_what_a_server_does_not_announce_is_not_used() -> None:
    client = ClientSession(is_stream=False)
    deliver(ServerSession(is_stream=False, hello=STOCK_HELLO), client)

    assert not client.takes_credit
    with pytest.raises(LocalProtocolError, match="only for a server that announced it"):
        client.request_changes(KEY, 0, 5)
    client.request_changes(KEY, 0)
    with pytest.raises(LocalProtocolError, match="not followed with one"):
        client.grant_credit(KEY, 5)


@pytest.mark.parametrize("amount", [0, -1, CREDIT_BYTES_MAX])
def test_a_client_grants_no_nonsense(amount: int) -> None:
    client, server = opened()
    client.request_changes(KEY, 0, 10)

    with pytest.raises(LocalProtocolError, match="cannot grant credit"):
        client.grant_credit(KEY, amount)
    deliver(client, server)
    assert server.error is None


def test_a_client_keeps_to_the_window_of_each_key() -> None:
    client, _ = opened(WriteWindow(2, 1000))
    client.write_entries(KEY, [entry(1)])
    client.write_entries(KEY, [entry(2)])
    client.write_entries("other", [entry(3, size=5000)])

    assert (client.has_room(KEY), client.has_room("other"), client.has_room("third")) == (False, False, True)
    with pytest.raises(LocalProtocolError, match="has_room"):
        client.write_entries(KEY, ())


def test_an_ack_makes_room() -> None:
    client, server = opened(WriteWindow(1, 1000))
    message_id = client.write_entries(KEY, [entry(1)])
    deliver(client, server)
    server.send_ack(message_id, [0], None)
    deliver(server, client)

    assert client.has_room(KEY)


# -- any grants -------------------------------------------------------------------------------------------------------

SIZES = (0, 1, 300, 5000)
plans = st.lists(
    st.tuples(st.sampled_from(["write", "send", "deliver", "grant"]), st.sampled_from("aab"), st.integers(0, 3)),
    max_size=60,
)


@example([("write", "a", 3), ("send", "a", 0), ("write", "a", 0), ("send", "a", 0)], 1, False)
@given(plans, st.sampled_from([1, 300, 700, 6000]), st.booleans())
def test_whatever_is_granted_when_the_client_is_sent_everything_and_never_too_much(
    plan: list[tuple[str, str, int]], credit: int, is_stream: bool
) -> None:
    client, server = opened(is_stream=is_stream)
    accounts: dict[str, CreditAccount] = {}
    journals: dict[str, list[RemoteEncryptedEntry]] = {"a": [], "b": []}
    sent, held, seen = {"a": 0, "b": 0}, {"a": 0, "b": 0}, {"a": 0, "b": 0}
    left = {"a": credit, "b": credit}  # as the client counts, without an account

    def send(key: str) -> None:
        waiting = journals[key][sent[key] :]
        count = accounts[key].affordable(waiting)
        if count:
            sent[key] += count
            server.send_changes(key, waiting[:count], sent[key])

    def arrive() -> None:
        for event in deliver(server, client):
            assert isinstance(event, ChangesReceived)
            assert [found.sequence for found in event.entries] == list(
                range(seen[event.public_key], seen[event.public_key] + len(event.entries))
            )
            seen[event.public_key] += len(event.entries)
            cost = sum(len(found.ciphertext) + CREDIT_ENTRY_BYTES for found in event.entries)
            assert cost <= left[event.public_key] or (len(event.entries) == 1 and left[event.public_key] > 0)
            left[event.public_key] -= cost
            held[event.public_key] += cost
        assert client.error is None

    for key in "ab":
        client.request_changes(key, 0, credit)
    for event in deliver(client, server):
        assert event.credit is not None
        accounts[event.public_key] = event.credit
    for step, key, number in plan:
        if step == "write":
            first = len(journals[key])
            journals[key] += [received(first + more, SIZES[number]) for more in range(3)]
        elif step == "send":
            send(key)
        elif step == "deliver":
            arrive()
        elif held[key]:
            amount = held[key] if number else max(held[key] // 2, 1)
            held[key] -= amount
            left[key] += amount
            client.grant_credit(key, amount)
            deliver(client, server)
    for key in "ab":
        while seen[key] < len(journals[key]):
            before = seen[key]
            send(key)
            arrive()
            for each in "ab":
                if held[each]:
                    client.grant_credit(each, held[each])
                    left[each] += held[each]
                    held[each] = 0
            granted = deliver(client, server)
            assert seen[key] > before or granted, "stuck"
