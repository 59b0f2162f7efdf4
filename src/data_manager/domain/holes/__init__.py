"""What is missing: by which rule, since when, what became of it, and when a series can have rows at all."""
