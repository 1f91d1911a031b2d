"""Shipped for tests of your own backends and policies: contract suites, fixtures, scripted peers."""

from __future__ import annotations

__all__: list[str] = []
