"""What is there and yet odd: rules for rows, and the same facts told twice."""
