"""Accounts: opened, and counted on by everything that changes them. Pure."""
