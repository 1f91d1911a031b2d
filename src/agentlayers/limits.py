"""
Every bound in one place, with its unit and the reason for its value.

Whatever a peer chooses is checked against these before memory is spent in proportion to it.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# -- wire -----------------------------------------------------------------------------------------------
CHUNK_BYTES: Final = 512_000
"""A message longer than this is cut; the value every stock peer uses."""

MESSAGE_BYTES_MAX: Final = 32 * MIB
"""One reassembled message. A batch of ours stays far below; a stock client may push its whole backlog at once."""

FRAME_BYTES_MAX: Final = 4 * MIB
"""One WebSocket frame or one MessagePack value on TCP. Stock peers send Acks unchunked however long they are."""

CHUNKS_PER_MESSAGE_MAX: Final = -(-MESSAGE_BYTES_MAX // CHUNK_BYTES) + 1
"""Follows from the two sizes; one spare for a peer that cuts unevenly."""

PENDING_CHUNKED_MESSAGES_MAX: Final = 4
"""Half-received messages per connection; a correct peer has one per direction."""

PENDING_CHUNK_BYTES_MAX: Final = 48 * MIB
"""Bytes held for half-received messages of one connection."""

FETCH_ENTRIES_MAX: Final = 64
"""Entries asked for by id in one message; the server answers as many of them as fit a message."""

FETCHES_IN_FLIGHT_MAX: Final = 4
"""FetchEntries of one connection without an answer."""

ENTRIES_PER_MESSAGE_MAX: Final = 100_000
"""Entries in one WriteEntries or Changes; above any backlog a stock client fits into one message."""

SUBSCRIPTIONS_PER_CONNECTION_MAX: Final = 64
"""Public keys one connection may follow; a replica has one per journaled store."""

PUBLIC_KEY_BYTES_MAX: Final = 256
"""UTF-8 bytes of a public key; ours are 43 characters, Effect's a UUID of 36."""

IV_BYTES: Final = 12
"""AES-GCM nonce."""

ENTRY_ID_BYTES: Final = 16
"""UUIDv7."""

FIELDS_PER_MESSAGE_MAX: Final = 64
"""Keys in one message, known or not; the longest message has six."""

CAPABILITIES_MAX: Final = 64
"""Names in the capabilities of a Hello."""

NAME_BYTES_MAX: Final = 256
"""UTF-8 bytes of a tenant, a capability or an error code on the wire."""

TOKEN_BYTES_MAX: Final = 8 * KIB
"""UTF-8 bytes of a token; room for a signed one."""

AUTHENTICATE_BYTES_MAX: Final = 16 * KIB
"""A stream may hold so much before it says who it is: an Authenticate with the longest token. Strangers get no more."""

CREDIT_ENTRY_BYTES: Final = 256
"""What an entry costs of a credit beside its ciphertext: about what it takes in memory, so that a flood of small ones
is bounded too."""

CREDIT_BYTES_MAX: Final = 1024 * MIB
"""Credit one public key may have; a grant past it is a mistake, or an attempt to overflow something."""

# -- client ---------------------------------------------------------------------------------------------
PUSH_BATCH_ENTRIES_MAX: Final = 512
"""Entries per WriteEntries of ours: large enough that the per-message cost vanishes, small enough to pipeline."""

FIRST_BATCH_ENTRIES: Final = 128
"""Entries of a connection's first WriteEntries, and of a subscription's first Changes; doubles from there."""

PUSH_BATCH_BYTES_MAX: Final = 256 * KIB
"""Plaintext bytes per WriteEntries of ours (one larger entry still goes alone)."""

PUSH_WINDOW_MESSAGES: Final = 8
"""WriteEntries on their way without an Ack; bounds what a lost connection sends again."""

RELAY_DELAY_SECONDS: Final = 0.25
"""What came from another server waits about this long before it is relayed: a server that has it says so meanwhile."""

PULL_QUEUE_MESSAGES_MAX: Final = 16
"""Received Changes waiting for the journal; when full the socket is not read, so the sender feels it. Only where the
server takes no credit."""

PULL_CREDIT_BYTES: Final = 8 * MIB
"""What a server may send of one store before the journal has taken it over: enough that neither waits for the other."""

HEARTBEAT_SECONDS: Final = 10.0
"""Between Pings, as stock clients do; a Pong missing at the next tick means the connection is dead."""

CONNECT_TIMEOUT_SECONDS: Final = 10.0
"""For the socket, TLS, the upgrade and the server's Hello together."""

RECONNECT_BASE_SECONDS: Final = 0.1
"""First retry; doubles from here."""

RECONNECT_MAX_SECONDS: Final = 5.0
"""Longest pause between two attempts, so a server that is back is found soon."""

SCHEDULE_CHARACTERS_MAX: Final = 1_000
"""Of a schedule written as text: five calls are a long one, and the nesting that reading it meets stays shallow."""

FLUSH_ON_CLOSE_SECONDS: Final = 2.0
"""How long closing a connected replica waits for the server to acknowledge what is pending."""

# -- server ---------------------------------------------------------------------------------------------
OUTBOX_BYTES_MAX: Final = 8 * MIB
"""Frames queued for one connection; past it the subscriber is dropped with a reason and resumes from its cursor."""

CHANGES_BATCH_ENTRIES_MAX: Final = 1024
"""Entries per Changes of ours when a backlog is read."""

CHANGES_BATCH_BYTES_MAX: Final = 384 * KIB
"""Ciphertext bytes per Changes of ours, below the chunk size."""

WRITE_WINDOW_MESSAGES: Final = 64
"""WriteEntries of one public key a client may have without an Ack, as Hello announces; eight times what ours uses."""

WRITE_WINDOW_BYTES: Final = 16 * MIB
"""Their ciphertext bytes (one larger message still goes alone)."""

CONNECTIONS_MAX: Final = 4096
"""Open connections per server process."""

# -- journal --------------------------------------------------------------------------------------------
CLOCK_DRIFT_SECONDS_MAX: Final = 3600.0
"""Ids further ahead than this never pull the local clock along."""

COMMIT_BATCH_MAX: Final = 512
"""Transactions that may share one commit (one fsync)."""

PAYLOAD_BYTES_MAX: Final = 16 * MIB
"""One entry's payload; larger artifacts travel in pieces."""

PAYLOAD_DEPTH_MAX: Final = 200
"""Maps and lists inside one another in a payload; far below where MessagePack and JSON libraries give up."""

ARTIFACT_INLINE_BYTES_MAX: Final = 1 * MIB
"""Content up to this size travels inside its artifact_record."""

ARTIFACT_CHUNK_BYTES: Final = 448 * KIB
"""Larger content is cut into entries of this size; each fits into one message that is not cut again."""

ARTIFACT_CHUNK_WAIT_SECONDS: Final = 86_400.0
"""How long a chunk waits for the record that refers to it: an upload in progress, or a record still on its way."""

SEARCH_TEXT_CHARACTERS_MAX: Final = 64 * KIB
"""Characters of one chat message that a search looks at; more is output of tools, not conversation."""

QUARANTINE_ENTRIES_MAX: Final = 1000
"""Entries of one store kept aside because they cannot be used: enough to see what is wrong. Anybody who knows a public
key can have a server send any number; what is beyond is read again from the server once the store has another key."""

QUARANTINE_BYTES_MAX: Final = 16 * MIB
"""Their data together, so that a disk does not fill with what nobody can read."""

HORIZON_WINDOW_SECONDS: Final = 365 * 86_400.0
"""How long the ids of compacted entries are remembered, so that nothing compacted comes back."""

COMPACTION_STEP_ROWS_MAX: Final = 512
"""Entries one transaction of compaction drops, so that appends never wait long for it."""

JOURNAL_PAGE_BYTES_MAX: Final = 8 * MIB
"""Payload bytes per page when a journal is read from end to end (one larger entry still comes alone)."""

BUSY_SECONDS_MAX: Final = 10.0
"""How long a write waits for another process's transaction on the same file."""

FOREIGN_COMMIT_POLL_SECONDS: Final = 0.05
"""Between looks for another process's commits, only while somebody follows the journal."""

JOURNAL_CACHE_BYTES_MAX: Final = 4 * MIB
"""Values a journal over a key-value store keeps at hand: states, counters and records that every append needs."""

JOURNAL_CACHED_VALUE_BYTES_MAX: Final = 64 * KIB
"""One of them; larger ones would push out many that are asked for more often."""

# -- key-value stores -----------------------------------------------------------------------------------
KEY_VALUE_KEY_BYTES_MAX: Final = 4 * KIB
"""One key; ordered keys of packed parts stay far below, and every medium can hold it."""

KEY_VALUE_VALUE_BYTES_MAX: Final = 64 * MIB
"""One value. Values are held in memory whole; what is larger is cut by the caller."""

KEY_VALUE_PAGE_ENTRIES_MAX: Final = 512
"""Pairs per page of a scan: the cost of one look at the medium vanishes, memory stays small."""

KEY_VALUE_PAGE_BYTES_MAX: Final = 1 * MIB
"""Keys and values per page of a scan (one larger pair still comes alone)."""

KEY_VALUE_GROUP_BYTES_MAX: Final = 16 * MIB
"""Bytes of concurrent writes that may share one commit."""

KEY_VALUE_BATCH_BYTES_MAX: Final = 128 * MIB
"""Keys and values of one batch: it is held in memory whole, here and by some media."""

KEY_VALUE_BATCH_OPERATIONS_MAX: Final = 250_000
"""Operations of one batch; Redis takes about a million arguments in one command."""

# -- runtime --------------------------------------------------------------------------------------------
RECORD_WAIT_SECONDS_MAX: Final = 0.25
"""How long a message may wait for its commit before it is yielded as ``recording_behind``."""

TOOL_OUTPUT_BYTES_MAX: Final = 1 * MIB
"""Output kept of one scripted tool call."""

# -- files ----------------------------------------------------------------------------------------------
IDENTITY_FILE_BYTES_MAX: Final = 64 * KIB
"""An identity file: a line of about 200 characters, some more with identities for single stores."""

EXPORT_LINE_BYTES_MAX: Final = 12 * PAYLOAD_BYTES_MAX
"""One line of an export: control characters take six bytes each, the raw form and sealing a third more."""

SEALED_CHUNK_BYTES: Final = 64 * KIB
"""Lines of an export that are sealed together, unless one is longer."""

SCRYPT_LOG2_N_MAX: Final = 18
"""Work a sealed export may ask of its reader: 256 MiB of memory, about a second."""
