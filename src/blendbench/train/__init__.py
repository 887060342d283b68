"""Trainings: what makes models and data that methods and evaluators then load.

A training is a function that `_target_` names in `conf/training`; the other entries of that file are what it is called
with. It writes below a folder that it is given, and returns figures for the card, or None. One that is stopped goes on
when it is called again with the same entries, which `loop.Loop` sees to.
"""
