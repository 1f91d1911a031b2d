"""``python -m agentlayers`` is the ``agentlayers`` command."""

from agentlayers.cli.main import main

if __name__ == "__main__":
    main()
