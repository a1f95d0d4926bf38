"""What the audit asks of the sides: every statement that it makes, by topic. Nothing here writes."""
