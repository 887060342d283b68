"""The built-in models, one training a module."""
