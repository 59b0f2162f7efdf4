"""Verbs, one file each; what belongs to one and does not fit beside it has a folder of its own."""
