"""Values by the column, exact: numbers as the venue writes them, levels of a book, arithmetic that rounds nothing."""
