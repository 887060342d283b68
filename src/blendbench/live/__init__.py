"""`blendbench live`: music that hides a noise while it sounds.

`streams` reads sound as it comes and writes it as it goes; `painter` paints the next window of music while the present
one plays; `engine` puts both together, block by block, and never waits for the painter unless it is told to.
"""
