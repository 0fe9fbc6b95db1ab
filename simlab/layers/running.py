"""Running a model in eval mode with hooks on some of its modules, and leaving no trace in it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]
Call = Callable[[Any], None]
Run = Callable[[nn.Module, Any], Any]


@contextlib.contextmanager
def hooked(
    model: nn.Module, hooks: Mapping[nn.Module, Hook], run: Run | None = None
) -> Iterator[Call]:
    """Put forward hooks on modules and the model into eval mode, inside the block.

    Args:
        model: without a wrapper around it.
        hooks: {module: hook(module, args, kwargs, output)}.
        run: run(model, inputs) in the place of the model.

    Yields:
        call(inputs): one forward pass without gradients of a tensor, of a tuple (positional
        arguments) or of a mapping (keywords).

    Raises:
        ValueError: the model cannot be put into eval mode, as one from torch.export.
    """
    eager = _eager_if_compiled(model)

    def call(inputs: Any) -> None:
        with torch.no_grad(), eager():
            if run is not None:
                run(model, inputs)
            elif isinstance(inputs, Mapping):
                model(**inputs)
            elif isinstance(inputs, tuple):
                model(*inputs)
            else:
                model(inputs)

    with contextlib.ExitStack() as undo:
        for module in model.modules():
            undo.callback(setattr, module, "training", module.training)
        try:
            model.eval()
        except NotImplementedError:
            raise ValueError(
                f"this {type(model).__name__} comes from torch.export and holds no layers that "
                "run as modules: give the model that was exported"
            ) from None
        for module, hook in hooks.items():
            undo.enter_context(module.register_forward_hook(hook, with_kwargs=True))
        yield call


def home_of(model: nn.Module) -> torch.device | None:
    """The device of the first parameter, else of the first buffer; None where there is neither."""
    for tensor in [*model.parameters(), *model.buffers()]:
        return tensor.device
    return None


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a (nested) tuple, list or mapping in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change the tensors of a (nested) tuple, list or mapping; all else stays as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, PackedSequence):
        return value  # not to be taken apart
    if isinstance(value, Mapping):
        return like(value, {name: map_tensors(item, change) for name, item in value.items()})
    if isinstance(value, (tuple, list)):
        return like(value, [map_tensors(item, change) for item in value])
    return value


def like(container: Any, values: Any) -> Any:
    """Values in a container of the same type; in a plain one where it is made in another way."""
    kind = type(container)
    if hasattr(container, "_fields"):  # a named tuple
        return kind(*values)
    try:
        return kind(values)
    except TypeError:
        return values


def _eager_if_compiled(model: nn.Module) -> Callable[[], contextlib.AbstractContextManager]:
    """A context in which compiled parts run eagerly, since they skip hooks.

    It slows every call in Python, so only where there are compiled parts.
    """
    for module in model.modules():
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            return partial(torch.compiler.set_stance, "force_eager")
    return contextlib.nullcontext
