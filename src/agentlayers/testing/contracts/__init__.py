"""
Contract suites: one abstract class of tests for each port.

A backend proves itself by subclassing the suite of its port and giving it a fixture.
"""

from __future__ import annotations

__all__: list[str] = []
