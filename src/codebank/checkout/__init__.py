"""Turns a basket into a paid order."""
