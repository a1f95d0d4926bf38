"""Proves that orders, ledger, log and statement agree; draws the control room."""
