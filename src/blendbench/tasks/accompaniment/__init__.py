"""The accompaniment task: a background and a text become the background with a new part (Riff-CNET, Riff-P2P)."""
