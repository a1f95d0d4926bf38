"""What the bank remembers: every SQL statement of the room, by topic."""
