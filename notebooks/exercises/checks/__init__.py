"""The checks of the exercises: a module for each notebook, and what these need beside them.

They test what must hold, and say why an answer does not.
"""
