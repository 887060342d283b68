"""The degradation task: real music made worse in known ways, to see how a judge answers."""
