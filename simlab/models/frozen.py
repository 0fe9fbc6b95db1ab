"""Frozen parts of an encoder: their weights don't move, and neither does anything else in them."""

from torch import nn


def keep_frozen(module: nn.Module) -> None:
    """Put the frozen parts of a module into evaluation mode; call it after `module.train()`.

    So BatchNorm normalises by its running statistics there and leaves them as they are, and dropout
    does nothing. A part is frozen if it has parameters, and none of them has `requires_grad`.
    """
    trained = [parameter.requires_grad for parameter in module.parameters()]
    if trained and not any(trained):
        module.eval()
        return
    for child in module.children():
        keep_frozen(child)
