"""What has to hold while faults happen, and what has to hold when they are over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentlayers import limits
from agentlayers.storage.digest import journal_digest
from agentlayers.sync.status import SyncState
from simulation.replica import FOLLOWED, KEYS, STORES, SimulatedReplica
from simulation.run_log import RunLog
from simulation.server import SimulatedServer

__all__ = ["check_cursors", "check_end", "check_queues", "check_status"]

_VERIFIED_SECONDS_MAX: Final = 3 * limits.HEARTBEAT_SECONDS


# -- meanwhile ----------------------------------------------------------------------------------------------------
def check_cursors(one: SimulatedReplica, log: RunLog) -> None:
    """No cursor of a journal is beyond an entry that the journal lacks, whatever is durable now."""
    data = one.journal.data
    for server in one.servers:
        if server.rewinds:
            continue  # Until it is met again nobody can know.
        for store in FOLLOWED:
            number = data.stores.get(store)
            remote = None if number is None else data.remotes.get((number, server.remote_id))
            if number is None or remote is None:
                continue
            ids = server.ids(KEYS[store])
            checked = one.checked.get((store, server.name), 0)
            lacking = [
                at
                for at in range(checked, min(remote.next_sequence, len(ids)))
                if (number, ids[at]) not in data.positions
            ]
            where = f"{store} at {server.name}"
            log.require(
                one.name,
                f"{where}: cursor {remote.next_sequence} is beyond the server's {len(ids)} entries",
                holds=remote.next_sequence <= len(ids),
            )
            log.require(one.name, f"{where}: cursor {remote.next_sequence} is beyond {lacking[:5]}", holds=not lacking)
            one.checked[store, server.name] = max(checked, remote.next_sequence)


def check_status(one: SimulatedReplica, log: RunLog) -> None:
    """Nothing is called sent that a server does not hold, and nothing received that is not here."""
    for server in one.servers:
        remote = one.remote(server)
        if remote is None or server.rewinds:
            continue
        for store, registration in remote.registrations.items():
            if registration.status().pending == 0:
                _check_sent(one, server, store, log)


def _check_sent(one: SimulatedReplica, server: SimulatedServer, store: str, log: RunLog) -> None:
    """Find all that was written here at the server, beyond what was found before."""
    data, place, holds = one.journal.data, ("sent " + store, server.name), server.holds(KEYS[store])
    number, up_to = data.stores.get(store, 0), one.journal.published
    if number not in data.outbound:
        return
    positions = data.outbound[number].irange(one.checked.get(place, 0) + 1, up_to)
    missing = [position for position in positions if data.row(position).id not in holds]
    what = f"{store}: nothing is said to be pending for {server.name}, which lacks {missing[:5]}"
    log.require(one.name, what, holds=not missing)
    one.checked[place] = up_to


def check_queues(one: SimulatedReplica, log: RunLog) -> None:
    """What a replica holds back is bounded."""
    for server in one.servers:
        remote = one.remote(server)
        for worker in remote._pool._workers if remote else ():
            for replication in worker.link.replications.values() if worker.link else ():
                window, queued = len(replication.push._in_flight), replication.pull._inbox._size
                log.require(one.name, f"{window} messages are in flight", holds=window <= limits.PUSH_WINDOW_MESSAGES)
                log.require(
                    one.name,
                    f"{queued} bytes wait for the journal",
                    holds=queued <= 2 * limits.PULL_CREDIT_BYTES + limits.MIB,
                )


# -- in the end ---------------------------------------------------------------------------------------------------
async def check_end(
    replicas: Sequence[SimulatedReplica],
    servers: Sequence[SimulatedServer],
    acknowledged: dict[str, set[bytes]],
    log: RunLog,
) -> None:
    """Everybody holds the same, nothing is lost or twice, and everybody says so."""
    for store in FOLLOWED:
        everything = set[bytes]().union(*(one.ids(store) for one in replicas))
        lost = acknowledged[store] - everything
        log.require("end", f"{store}: {len(lost)} acknowledged entries are lost", holds=not lost)
        for one in replicas:
            lacking = everything - one.ids(store)
            log.require(one.name, f"{store}: lacks {len(lacking)} of {len(everything)} entries", holds=not lacking)
        for server in servers:
            _check_held(server, store, everything, log)
    if not any(server.rewinds for server in servers):
        for one in replicas:
            for server in one.servers:
                _check_held(server, STORES[-1], one.ids(STORES[-1], own=True), log)
    digests = {one.name: await journal_digest(one.journal, stores=FOLLOWED) for one in replicas}
    log.require("end", f"digests differ: {digests}", holds=len(set(digests.values())) == 1)
    shown = [_shown(one) for one in replicas]
    log.require("end", "read models differ", holds=all(model == shown[0] for model in shown))
    for one in replicas:
        _check_applied_once(one, log)
        _check_said(one, log)


def _check_held(server: SimulatedServer, store: str, everything: set[bytes], log: RunLog) -> None:
    ids = server.ids(KEYS[store])
    lacking = everything.difference(ids)
    log.require(server.name, f"{store}: lacks {len(lacking)} of {len(everything)} entries", holds=not lacking)
    log.require(server.name, f"{store}: holds entries twice", holds=len(ids) == len(set(ids)))


def _shown(one: SimulatedReplica) -> dict[bytes, bytes]:
    return {key: value for key, value in one.journal.data.values.items() if b"shown/" in key}


def _check_applied_once(one: SimulatedReplica, log: RunLog) -> None:
    applied = {key: value for key, value in one.journal.data.values.items() if b"applied/" in key}
    twice = [key for key, value in applied.items() if len(value) != 1]
    held = sum(len(one.ids(store)) for store in STORES)
    log.require(one.name, f"{len(twice)} entries were applied twice", holds=not twice)
    log.require(one.name, f"{held} entries are held and {len(applied)} were applied", holds=held == len(applied))
    log.require(
        one.name, "something was set aside", holds=not one.journal.data.quarantined and not one.journal.data.unapplied
    )


def _check_said(one: SimulatedReplica, log: RunLog) -> None:
    for server in one.servers:
        remote = one.remote(server)
        if remote is None:
            log.violate(one.name, f"does not know {server.name}")
            continue
        status = remote.status()
        what = f"{server.name}: state {status.state}, error {status.last_error}"
        log.require(one.name, what, holds=status.state is SyncState.CONNECTED and status.last_error is None)
        for store, told in status.stores.items():
            where = f"{server.name}: {store}"
            log.require(one.name, f"{where}: pending {told.pending}", holds=told.pending == 0)
            log.require(
                one.name, f"{where}: {told}", holds=not (told.is_diverged or told.quarantined or told.last_error)
            )
            if store in FOLLOWED:
                head = len(server.ids(KEYS[store]))
                log.require(one.name, f"{where}: behind {told.behind}", holds=told.behind == 0)
                log.require(one.name, f"{where}: at {told.next_sequence} of {head}", holds=told.next_sequence == head)
                if head:
                    at = told.last_verified.timestamp() if told.last_verified is not None else 0.0
                    ago = one.clock() - at
                    log.require(one.name, f"{where}: verified {ago:.0f} s ago", holds=abs(ago) <= _VERIFIED_SECONDS_MAX)
