"""Petrosa Data Manager: market data stored once, known to be complete or not, and served as such."""

__version__ = "0.1.0"
