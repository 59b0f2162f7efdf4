"""What may be believed: which instants were audited, with what result, and what follows for any span."""
