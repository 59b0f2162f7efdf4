"""Between the bus and the store: what waits, what is screened, what had to be let go, and what is said of it."""
