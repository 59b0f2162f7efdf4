"""The parts of an audit: what rows say, what that changes, and what is reported."""
