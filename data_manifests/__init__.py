"""Data that every experiment shares: the prompts, and which clips take part."""
