"""HTTP: routes built from the dataset table."""
