"""Models, noises and music that travel with the package."""
