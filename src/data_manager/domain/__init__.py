"""Nouns and rules: pure, nothing awaits, nothing reads a clock."""
