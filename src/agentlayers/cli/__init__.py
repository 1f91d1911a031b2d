"""
The command line: one file per command.

Every command reports a known fault as one line on standard error and an exit status of its kind
(:mod:`agentlayers.cli.exit_status`); a traceback means a bug of ours.
"""
