"""Words to calls. Data goes to stdout, talk to stderr; exit codes: 0 fine, 1 the answer is no, 2 wrong use."""

from codebank.cli import operating, preparing, running
from codebank.cli.words import main

__all__ = ["main", "operating", "preparing", "running"]
