"""Shows how we know: load, kills, simulation."""
