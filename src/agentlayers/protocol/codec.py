"""
Every message to bytes and back.

Written is exactly what a stock peer writes: map16, fields in the order of its schema, ``_tag`` last
(:mod:`agentlayers.protocol.encoder`). Read is anything it reads: any key order and header form,
unknown keys, integral floats (:mod:`agentlayers.protocol.decoder`).
"""

from __future__ import annotations

from agentlayers.protocol.decoder import decode_message
from agentlayers.protocol.encoder import encode_message

__all__ = ["decode_message", "encode_message"]
