"""One folder per outside thing; driver types stop here."""
