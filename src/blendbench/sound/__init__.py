"""Sound: numbers, files, mel images, and the way back from them."""
