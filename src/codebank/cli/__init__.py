"""Words to calls. Data goes to stdout, talk to stderr; exit codes: 0 fine, 1 the answer is no, 2 wrong use."""

from codebank.cli import (
    bench,
    card,
    connector,
    database,
    dead_letter,
    payment,
    proof,
    reference,
    role,
    secret,
    statement,
    system,
    topic,
)
from codebank.cli.words import main

__all__ = [
    "bench",
    "card",
    "connector",
    "database",
    "dead_letter",
    "main",
    "payment",
    "proof",
    "reference",
    "role",
    "secret",
    "statement",
    "system",
    "topic",
]
