"""Payments: charged, given back. Pure."""
