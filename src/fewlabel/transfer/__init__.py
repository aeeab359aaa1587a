"""Transfer from other data to a few photographs."""
