"""Codebank: card payments with a proof that every side agrees to the cent."""
