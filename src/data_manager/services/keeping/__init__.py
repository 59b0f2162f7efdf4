"""What is proven and how long it stays: certificates over what is held, and retention that waits for them."""
