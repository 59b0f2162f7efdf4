"""The ways by which alerts leave us."""
