"""Help that fits the terminal: paragraphs are broken where its lines end, not where those of the source do."""

from __future__ import annotations

import inspect

import typer

__all__ = ["reflow", "reflow_help"]


def reflow(text: str) -> str:
    r"""
    Join the lines of each paragraph; what is indented, such as an example, stays as it is.

    >>> reflow("One\ntwo.\n\nFor instance:\n\n  a\n  b")
    'One two.\n\nFor instance:\n\n  a\n  b'

    """
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(one if one.startswith(" ") else " ".join(one.split("\n")) for one in paragraphs)


def reflow_help(app: typer.Typer) -> None:
    """Give every command of an application, and of the groups in it, its docstring as help, reflowed."""
    for command in app.registered_commands:
        text = command.help or inspect.getdoc(command.callback)
        if text:
            command.help = reflow(text)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            reflow_help(group.typer_instance)
