"""The blend task."""
