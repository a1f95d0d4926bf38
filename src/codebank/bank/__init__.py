"""Decides whether money may move, and remembers that it did."""
