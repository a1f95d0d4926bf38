"""The operator's hand: cards, dead letters, the demo's data."""
