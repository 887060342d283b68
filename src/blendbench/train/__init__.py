"""What makes the built-in models: a music source of our own, its captions, and the training of each model on it."""
