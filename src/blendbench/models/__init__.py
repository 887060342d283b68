"""Networks: what a checkpoint is, where it comes from, how it is loaded, and the loops that sample from it."""
