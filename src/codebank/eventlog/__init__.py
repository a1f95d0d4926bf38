"""Carries events from the bank to whoever reads them: in order per key, each once."""
