"""The ledger: what moves money, and in which order. Pure."""
