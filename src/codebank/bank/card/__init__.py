"""Cards: issued, blocked, and tired of wrong attempts. Pure."""
