"""Attacks that succeeded once, each a test."""
