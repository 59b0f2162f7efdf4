"""Alerts: what stands, what of it is told to whom, and whether it arrived."""
