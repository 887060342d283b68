"""What the built-in models learn from."""
