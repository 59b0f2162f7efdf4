"""What was held, provably: the one form of a row, certificates, and which row a difference lies in."""
