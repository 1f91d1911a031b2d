"""
The sync protocol without I/O: messages, their bytes, and both sides of a session as pure state
machines.

Nothing here opens a socket, reads a clock or draws a random number, and nothing but msgpack is
imported, so the same code runs behind WebSocket, TCP, in a simulator and in a worker.
"""

from agentlayers.protocol.chunking import Reassembler, split_message
from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.credit import CreditAccount, cost_of
from agentlayers.protocol.entry_codec import decode_entry, encode_entry
from agentlayers.protocol.events import (
    AckReceived,
    AuthenticateReceived,
    ChangesReceived,
    ChangesRequested,
    ChangesStopped,
    ClientEvent,
    CreditGranted,
    EntriesFetched,
    FetchRequested,
    HelloReceived,
    PingReceived,
    PongReceived,
    ServerEvent,
    SessionFailed,
    WriteReceived,
)
from agentlayers.protocol.framing import ValueReader
from agentlayers.protocol.payload import (
    UNDEFINED,
    decode_payload,
    decode_value,
    encode_payload,
    encode_value,
)
from agentlayers.protocol.server_session import ServerSession, encode_changes_frames
from agentlayers.protocol.session import SessionState

__all__ = [
    "UNDEFINED",
    "AckReceived",
    "AuthenticateReceived",
    "ChangesReceived",
    "ChangesRequested",
    "ChangesStopped",
    "ClientEvent",
    "ClientSession",
    "CreditAccount",
    "CreditGranted",
    "EntriesFetched",
    "FetchRequested",
    "HelloReceived",
    "PingReceived",
    "PongReceived",
    "Reassembler",
    "ServerEvent",
    "ServerSession",
    "SessionFailed",
    "SessionState",
    "ValueReader",
    "WriteReceived",
    "cost_of",
    "decode_entry",
    "decode_message",
    "decode_payload",
    "decode_value",
    "encode_changes_frames",
    "encode_entry",
    "encode_message",
    "encode_payload",
    "encode_value",
    "split_message",
]
