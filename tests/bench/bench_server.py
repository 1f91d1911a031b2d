"""
What the server alone can do: durable appends, fan-out to raw subscribers, and what peers that misbehave cost it.

Run ``python tests/bench/bench_server.py [--subscribers 100] [--writes 500] [--window 8]``. The subscribers read
bytes and count entries, nothing more; they and the writer live in this process, the server in another one.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from bench_main_job import Server
from contenders import port_of
from raw_wire import flood, measure_fan_out, random_entries

from agentlayers.server import SQLiteServerStorage


async def measure_appends(directory: Path, *, batches: int = 100, size: int = 512) -> float:
    """Return durable entries/s, one batch after the other."""
    data = [random_entries(size, 400) for _ in range(batches)]
    async with SQLiteServerStorage(directory) as storage:
        started = time.perf_counter()
        for batch in data:
            await storage.append("default", "key", batch)
        return batches * size / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=100)
    parser.add_argument("--writes", type=int, default=500)
    parser.add_argument("--window", type=int, default=8, help="writes on their way without an Ack")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        appends = asyncio.run(measure_appends(root / "appends"))
        print(f"durable appends in batches of 512 x 400 bytes: {appends:,.0f} entries/s")
        server = Server(root / "server")
        try:
            rate = measure_fan_out(port_of(server), **vars(options))
            before = server.rss_mb()
            flooded = flood(port_of(server), 20_000, never_reading=20)
            peak = server.rss_mb()
        finally:
            server.end()
    print(f"fan-out to {options.subscribers} subscribers, {options.window} writes in flight: {rate:,.0f} deliveries/s")
    print(
        f"20,000 single writes that wait for no Ack, 20 subscribers that never read: {flooded:,.0f} entries/s,"
        f" the server's peak goes from {before:.0f} to {peak:.0f} MB"
    )


if __name__ == "__main__":
    main()
