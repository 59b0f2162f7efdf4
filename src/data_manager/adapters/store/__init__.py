"""Time series on disk."""
