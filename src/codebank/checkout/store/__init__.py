"""What the shop remembers: every SQL statement of the room, by topic."""
