"""``python -m agentdistill`` is the command ``agentdistill``."""

from agentdistill.cli import main

main()
