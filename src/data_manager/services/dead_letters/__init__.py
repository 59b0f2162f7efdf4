"""What could not be kept as data: kept to be looked at, told of in the log, and given a second chance."""
