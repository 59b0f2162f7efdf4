"""The venue: its wire dialect."""
