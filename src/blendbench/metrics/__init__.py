"""Measures of how well music blends with noise, one flat module each.

A module holds `validate`, which raises on malformed input, and pure functions over tensors that return plain numbers.
The facts a table needs stand beside them as data: `HIGHER_IS_BETTER` (None where there is no better), `UNIT` and
`SOURCE`. No function returns a number where its input allows none: it raises `BlendbenchError`, or, for an interval
that one sample cannot have, gives nan. `bootstrap` adds intervals to any of them.
"""
