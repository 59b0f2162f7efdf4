"""Metadata in SQL."""
