"""The service at work: what app.py opened and introduced, running under one task group until it is told to stop."""
