"""What the statement remembers: every SQL statement of the room, by topic."""
