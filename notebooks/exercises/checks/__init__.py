"""The checks of the exercises, one module a notebook.

They test what must hold, and say why an answer does not.
"""
