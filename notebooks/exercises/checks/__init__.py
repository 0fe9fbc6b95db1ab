"""The exercises' checks, one module a notebook. They test what must hold, and say why it does not."""
