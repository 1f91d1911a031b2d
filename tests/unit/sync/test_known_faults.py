"""
The faults found in other systems that do this job, and which tests show that ours is free of each.

The numbers are those of the list of known faults: W of Effect's EventLog version 3, C of its Cloudflare server, R of
the TypeScript SDK built on it, V of version 4; O are those of version 3 that were found here. Where a fault cannot
occur at all, the reason stands instead.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import NamedTuple

import pytest

from agentlayers.journal.entry import StoredEntry
from agentlayers.journal.event_journal import Acknowledgement, StoreSchema
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.journal.transaction import JournalTransaction

ROOT = Path(__file__).parents[3]
PLACES = (ROOT / "tests", ROOT / "src" / "agentlayers" / "testing")


class Fault(NamedTuple):
    """One fault: what went wrong there, the tests here, and why it cannot apply if there are none."""

    what: str
    tests: tuple[str, ...] = ()
    because: str = ""


FAULTS = {
    "W1": Fault(
        "one nonce for a whole batch",
        (
            "test_W1_every_entry_has_a_nonce_of_its_own",
            "test_W1_a_stock_server_is_never_sent_two_entries_under_one_nonce",
            "test_a_backlog_goes_in_bounded_batches_with_a_nonce_for_each_entry",
        ),
    ),
    "W2": Fault(
        "Acks are not aligned when duplicates are left out",
        (
            "test_W2_an_ack_that_is_not_aligned_is_never_taken_for_one_that_is",
            "test_duplicates_among_new_entries_stay_aligned",
            "test_a_duplicate_has_its_first_sequence",
        ),
    ),
    "W3": Fault(
        "a batch of duplicates only ends the connection",
        (
            "test_all_duplicates_are_acknowledged_with_their_first_sequences",
            "test_a_retry_after_a_lost_ack_is_acknowledged_again",
            "test_a_lost_ack_is_settled_by_reading_and_never_by_sending_duplicates",
        ),
    ),
    "W4": Fault(
        "one position for all public keys of a connection",
        (
            "test_W4_each_key_of_a_connection_is_followed_from_its_own_position",
            "test_W4_a_stock_connection_is_used_for_one_public_key_only",
            "test_two_keys_on_one_connection_are_both_complete",
        ),
    ),
    "W5": Fault(
        "a write of one's own hides another writer's entry for ever",
        (
            "test_two_writers_each_get_the_others_entries_before_their_later_ack",
            "test_any_interleaving_gives_every_subscriber_everything_once_and_in_order",
            "test_an_entry_hidden_behind_our_own_write_is_found_by_itself",
        ),
    ),
    "W6": Fault(
        "chunks without bounds; a repeated one is fatal",
        (
            "test_W6_hostile_chunks_cost_no_memory",
            "test_W6_a_repeated_chunk_does_no_harm",
        ),
    ),
    "W7": Fault(
        "no message boundaries on byte streams",
        (
            "test_W7_messages_that_arrive_together_or_in_pieces_are_each_read_once",
            "test_a_stream_cut_anywhere_gives_the_same_values",
            "test_a_peer_on_this_machine_that_does_not_read_is_sent_no_more",
        ),
    ),
    "W8": Fault(
        "no reconnect after a subscription; a clean close counts as success",
        (
            "test_any_close_is_followed_by_a_reconnect",
            "test_a_restarted_server_is_found_again_and_all_converge",
            "test_disconnecting_while_a_connection_is_breaking_ends_at_once",
        ),
    ),
    "W9": Fault(
        "an entry written during the first push waits for the next one",
        ("test_a_write_while_the_backlog_is_read_is_not_left_behind",),
    ),
    "W10": Fault(
        "a write waits for ever after a drop",
        (
            "test_local_writes_never_wait_for_a_server_that_does_not_read",
            "test_after_a_reconnect_nothing_acknowledged_is_sent_again",
        ),
    ),
    "W11": Fault(
        "each Hello adds a worker and none is replaced",
        (
            "test_a_second_hello_of_the_same_server_changes_nothing",
            "test_disconnect_leaves_no_task_and_no_socket",
        ),
    ),
    "W12": Fault(
        "each reconnect imports the last entry again",
        (
            "test_after_a_reconnect_nothing_acknowledged_is_sent_again",
            "test_a_restarted_replica_resumes_and_sends_nothing_again",
            "test_an_entry_is_taken_once",
        ),
    ),
    "W13": Fault("the first conflicting entry is skipped", ("test_concurrent_versions_are_an_open_conflict",)),
    "W14": Fault(
        "imported entries never reach other remotes",
        (
            "test_two_remotes_at_once_each_keep_their_own_place",
            "test_what_came_from_one_remote_is_pending_for_another_that_is_relayed_to",
            "test_a_replica_of_two_servers_bridges_them_both_ways",
        ),
    ),
    "W15": Fault(
        "local appends block while an Ack is awaited",
        ("test_local_writes_never_wait_for_a_server_that_does_not_read",),
    ),
    "W16": Fault(
        "an empty journal asks from 1, so it never gets entry 0",
        ("test_a_start_of_one_is_taken_as_zero", "test_a_remote_never_seen_has_everything_to_come"),
    ),
    "W17": Fault(
        "an entry conflicts with itself",
        ("test_a_version_that_has_seen_ours_is_no_conflict", "test_an_entry_is_taken_once"),
    ),
    "W18": Fault(
        "ids in the order of time decide what is uploaded",
        (
            "test_ids_ascend_even_when_the_clock_steps_back",
            "test_acknowledgements_out_of_turn_leave_the_others_pending",
            "test_an_older_entry_relayed_while_a_push_is_on_its_way_is_not_lost",
        ),
    ),
    "W19": Fault(
        "one entry that cannot be decrypted ends the stream",
        (
            "test_W19_hostile_ciphertext_is_an_error_and_never_a_crash",
            "test_what_cannot_be_opened_is_kept_aside_and_stops_nothing_else",
        ),
    ),
    "W20": Fault(
        "Changes for a key nobody asked for are fatal",
        (
            "test_W20_changes_of_a_key_nobody_asked_for_are_ignored_and_counted",
            "test_C3_changes_are_only_sent_for_keys_the_client_follows_now",
        ),
    ),
    "W21": Fault(
        "whoever knows a public key may write garbage to it",
        ("test_a_wrong_token_is_refused_before_the_upgrade", "test_the_public_key_is_the_hash_of_the_verify_key"),
        because="a token opens a tenant, and garbage is kept aside (W19); proof of the key has room in Hello",
    ),
    "W22": Fault(
        "no backpressure and no bound on a batch",
        (
            "test_an_unacknowledged_window_bounds_what_is_under_way",
            "test_received_messages_are_bounded_while_the_journal_is_slow",
            "test_a_reader_that_pauses_is_bounded_and_still_gets_everything",
        ),
    ),
    "W23": Fault(
        "numbers become visible out of order; a second server process is not heard",
        (
            "test_concurrent_appends_to_one_key_get_every_number_once",
            "test_two_writers_and_readers_see_one_order",
            "test_a_second_server_on_the_directory_is_refused",
        ),
    ),
    "W24": Fault(
        "SQL of one database sent to another; values over 64 KiB are cut",
        (
            "test_a_large_entry_is_read_back_whole",
            "test_what_was_appended_is_read_back",
            "test_the_largest_entry_that_is_taken_can_be_handed_out",
        ),
    ),
    "W25": Fault(
        "an entry's id is outside the ciphertext and bound to nothing",
        ("test_what_cannot_be_opened_is_kept_aside_and_stops_nothing_else",),
        because="the id is sealed with the entry and compared; the number is the server's, and the digest shows "
        "another order. Ids are UUIDv7 as the wire demands, so the server does see when entries were written",
    ),
    "W26": Fault(
        "a projection that fails is only logged",
        (
            "test_a_projection_that_fails_leaves_its_entry_unapplied",
            "test_unapplied_entries_are_retried_at_registration",
        ),
    ),
    "W27": Fault(
        "private keys lie around in plain and readable form",
        (
            "test_secrets_do_not_show",
            "test_a_new_one_is_in_a_file_for_its_owner_alone",
            "test_show_tells_public_keys_and_the_secret_only_when_asked",
        ),
        because="the key is a file of its owner's, mode 0600, outside every journal and export. It is not rotated: "
        "a new identity is a new journal",
    ),
    "C1": Fault(
        "chunks of all connections in one table",
        ("test_C1_chunks_of_two_connections_with_the_same_id_do_not_meet",),
    ),
    "C2": Fault(
        "Ping is ignored", ("test_pings_are_answered", "test_a_stock_client_gets_a_plain_pong_from_our_server")
    ),
    "C3": Fault(
        "everything is sent to everybody",
        (
            "test_C3_changes_are_only_sent_for_keys_the_client_follows_now",
            "test_tenants_with_the_same_key_do_not_touch_each_other",
        ),
    ),
    "C4": Fault("half-received messages are lost when the server hibernates", because="our server does not hibernate"),
    "C5": Fault(
        "more parameters to a statement than the database takes",
        ("test_large_batches_are_read_back_whole", "test_a_large_batch_with_one_duplicate_is_stored"),
    ),
    "C6": Fault(
        "tenants share tables named after the key",
        ("test_tenants_are_apart", "test_tenants_do_not_see_each_other"),
    ),
    "C7": Fault(
        "open without a token, which is compared with ===",
        ("test_listening_beyond_loopback_needs_a_token", "test_a_wrong_token_is_refused_before_the_upgrade"),
    ),
    "R7": Fault(
        "compaction is undone by the next sync",
        ("test_nothing_compacted_comes_back", "test_what_was_superseded_stays_so_after_compaction"),
    ),
    "R8": Fault(
        "retention crosses sessions; a late put revives what was deleted",
        ("test_by_count_keeps_the_newest_of_each_scope", "test_a_deletion_is_a_version"),
    ),
    "R9": Fault(
        "each sync_now opens one more connection",
        ("test_sync_now_uses_the_connection_there_is",),
    ),
    "R10": Fault(
        "disconnect changes the status and not the socket",
        ("test_disconnect_leaves_no_task_and_no_socket", "test_disconnect_closes_everything_and_connect_resumes"),
    ),
    "R11": Fault(
        "the status is no evidence",
        ("test_status_is_connected_only_after_hello", "test_a_heartbeat_confirms_what_both_hold"),
    ),
    "R12": Fault(
        "every store on every device has an identity of its own",
        ("test_derived_keys_never_change", "test_two_replicas_converge_live_both_ways"),
    ),
    "V1": Fault(
        "a retry after a lost reply blocks the queue for ever",
        (
            "test_a_retry_after_a_lost_ack_is_acknowledged_again",
            "test_a_lost_ack_is_settled_by_sending_once_more_and_applied_once",
        ),
    ),
    "V2": Fault(
        "a key is bound to an identity before its signature is checked",
        because="no keys are bound: a public key is the hash of its verify key",
    ),
    "V3": Fault(
        "a failed look-up is remembered for ever",
        ("test_a_look_up_that_failed_is_made_again",),
        because="keys are bound to no identity, and tokens are compared in memory",
    ),
    "V4": Fault(
        "an entry from elsewhere drops out of another remote's queue",
        (
            "test_acknowledgements_out_of_turn_leave_the_others_pending",
            "test_local_entries_are_pending_for_every_remote",
            "test_an_older_entry_relayed_while_a_push_is_on_its_way_is_not_lost",
        ),
    ),
    "V5": Fault(
        "lost wake-up, and a failed push is not tried again",
        (
            "test_a_write_while_the_backlog_is_read_is_not_left_behind",
            "test_replicas_converge_whatever_happens_to_their_connections",
        ),
    ),
    "V6": Fault(
        "every reconnect downloads everything again",
        ("test_after_a_reconnect_nothing_acknowledged_is_sent_again",),
    ),
    "V7": Fault(
        "chunks without bounds; a second identity drops those under way",
        (
            "test_W6_hostile_chunks_cost_no_memory",
            "test_messages_under_way_at_once_do_not_mix",
            "test_authentication_comes_first_or_never",
        ),
    ),
    "V8": Fault(
        "a server may relabel entries; one bad entry spoils its batch",
        ("test_what_cannot_be_opened_is_kept_aside_and_stops_nothing_else",),
    ),
    "V9": Fault(
        "trust on first use, and no authorization",
        ("test_a_right_token_opens_its_tenant", "test_a_wrong_token_over_tcp_is_told_and_closed"),
    ),
    "V10": Fault(
        "compaction at the server leaves the client's cursor behind",
        because="the server does not compact: sequences are contiguous and never leave",
    ),
    "V11": Fault("every imported entry conflicts with itself", ("test_a_version_that_has_seen_ours_is_no_conflict",)),
    "V12": Fault(
        "changes are published before they are committed, and duplicates again",
        (
            "test_a_write_that_is_not_stored_is_not_acknowledged",
            "test_commits_are_announced_after_they_are_readable",
            "test_new_entries_are_reported_with_their_sequences",
        ),
    ),
    "V13": Fault(
        "W18, W24 and W26 remain",
        (
            "test_ids_ascend_even_when_the_clock_steps_back",
            "test_a_projection_that_fails_leaves_its_entry_unapplied",
        ),
    ),
    "V14": Fault(
        "what is pending costs more the longer the journal",
        ("test_what_is_pending_is_found_by_an_index",),
    ),
    "O1": Fault(
        "an SQL journal stores all that has arrived with one statement, and loses what it has no variables for",
        (
            "test_it_gets_everything_and_never_too_much_at_once",
            "test_a_stock_sqlite_replica_gets_a_long_backlog_whole",
        ),
    ),
    "O2": Fault(
        "what an Ack of many entries lists is never noted, so they are sent again with each write",
        (
            "test_an_ack_lists_what_fits_into_a_statement_and_the_rest_comes_back",
            "test_a_stock_sqlite_replica_that_sends_thousands_notes_all_of_them",
        ),
    ),
    "O3": Fault(
        "an Ack overtakes the Changes before it in the client, which asks for what follows the Ack if it ends then",
        (
            "test_an_ack_lists_nothing_while_changes_are_on_their_way",
            "test_a_stock_sqlite_replica_that_ends_in_the_middle_misses_nothing",
        ),
    ),
    "O4": Fault(
        "a client that has no Pong 10 s after its Ping is offline for good; over TCP ours stood behind a paced backlog",
        (
            "test_a_pong_does_not_wait_behind_a_backlog",
            "test_a_stock_sqlite_replica_gets_a_backlog_whole_over_tcp",
        ),
    ),
}
ALL = [
    *(f"W{number}" for number in range(1, 28)),
    *(f"C{number}" for number in range(1, 8)),
    *(f"R{number}" for number in range(7, 13)),
    *(f"V{number}" for number in range(1, 15)),
    *(f"O{number}" for number in range(1, 5)),
]


async def test_what_is_pending_is_found_by_an_index(tmp_path: Path) -> None:
    """The steps SQLite takes to find it do not grow with what was acknowledged (fault V14)."""
    remote, steps = bytes(16), {}
    for acknowledged in (100, 5_000):
        async with SQLiteJournal(tmp_path / str(acknowledged)) as journal:
            await journal.register(StoreSchema(name="notes"))
            await journal.transact(functools.partial(_write_and_acknowledge, remote=remote, count=acknowledged))
            await journal.write("notes", "note", "k", {"n": 1})
            steps[acknowledged], found = await journal.read(functools.partial(_counting, remote=remote))

        assert len(found) == 1
    assert steps[5_000] <= steps[100] + 20


def _write_and_acknowledge(tx: JournalTransaction, remote: bytes, count: int) -> None:
    for number in range(count):
        tx.write("notes", "note", "k", {"n": number})
    tx.acknowledge("notes", remote, Acknowledgement(list(range(1, count + 1))), through=None)


def _counting(tx: JournalTransaction, remote: bytes) -> tuple[int, list[StoredEntry]]:
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection = tx.sql._connection  # type: ignore[attr-defined]
    connection.set_progress_handler(step, 1)
    found = tx.uncommitted("notes", remote, entries_max=512, bytes_max=1 << 20)
    connection.set_progress_handler(None, 0)
    return steps, found


@functools.cache
def names_of_tests() -> frozenset[str]:
    names = set()
    for place in PLACES:
        for path in place.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                    names.add(node.name)
    return frozenset(names)


def test_no_fault_is_left_out() -> None:
    assert list(FAULTS) == ALL


@pytest.mark.parametrize("number", ALL)
def test_each_fault_is_shown_to_be_absent_or_impossible(number: str) -> None:
    """The tests that are named exist; what they show is theirs to say."""
    fault = FAULTS[number]
    missing = [name for name in fault.tests if name not in names_of_tests()]

    assert missing == []
    assert fault.tests or fault.because
