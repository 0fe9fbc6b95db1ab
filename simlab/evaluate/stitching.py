"""Model stitching: can one network's second half work with another one's first half?

Two classifiers are frozen. The first runs up to a layer; a 1x1 convolution (a linear map where the
channels lie last, as those of vectors and tokens do) takes its output into the space of a layer of
the second, which runs on from there to its logits. Only this stitching layer is trained, on the
labels. Where the stitched network is as accurate as its parents, the first one's layer holds what
the second needs, up to an affine map of the channels (Lenc & Vedaldi 2015, arXiv 1411.5908; Bansal
2021, arXiv 2106.07682).

A trained layer and a strong second half get some accuracy from anything. So the same is done with
an untrained network in front: only what lies above that reference speaks for the first half.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simlab.data import Dataset, Images
from simlab.layers import axes_of, select_layers

from .features import features
from .labels import accuracy

LEARNING_RATE = 1e-3  # of Adam, decayed to 0 by a cosine
RIDGE = 1e-3  # of the first fit, in units of the mean squared activation
FIT_IMAGES = 512  # training images of the first fit
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}  # by their number of spatial axes


@dataclass(frozen=True)
class Stitched:
    """Accuracies of a stitched network and of what it is compared with, on the test split, 0 to 1.

    Attributes:
        accuracy: of the stitched network.
        front: of the first parent alone.
        back: of the second parent alone.
        untrained: of the second half behind a first half with random weights, stitched likewise.
        layers: the layer of the first, and of the second.
        network: the stitched network, images -> logits.
    """

    accuracy: float
    front: float
    back: float
    untrained: float
    layers: tuple[str, str]
    network: "StitchedNetwork" = field(repr=False, compare=False)

    @property
    def penalty(self) -> float:
        """How much accuracy is lost against the better parent."""
        return max(self.front, self.back) - self.accuracy


class StitchedNetwork(nn.Module):
    """The first half of `front`, a trainable stitching layer, and the second half of `back`.

    Both run as they are, in evaluation mode and without gradients for their weights. The output
    that `back` computes at its layer is replaced, so skip connections around that layer would carry
    its own computation past the stitch: stitch behind whole blocks.
    """

    def __init__(
        self, front: nn.Module, front_layer: str, back: nn.Module, back_layer: str, images: Tensor
    ) -> None:
        """Make the stitching layer fit.

        Args:
            front: classifier or encoder of normalised images [N, C, H, W].
            front_layer: name of one of its layers.
            back: classifier of such images; its output is the logits.
            back_layer: name of one of its layers.
            images: normalised images [N, C, H, W]. The layer starts from the ridge regression of
                `back`'s activations on `front`'s.

        Raises:
            ValueError: an unknown layer, outputs that differ in more than their channels, or of
                which it is not known where the channels lie.
        """
        super().__init__()
        self.front = front
        self.back = back
        # In a tuple, so that they are not registered once more as parts of this module.
        self.layers = (_layer(front, front_layer), _layer(back, back_layer))
        for parameter in [*front.parameters(), *back.parameters()]:
            parameter.requires_grad_(False)
        self.eval()
        with torch.no_grad():
            source = _output(self.front, self.layers[0], images)
            target = _output(self.back, self.layers[1], images)
        axis = _channels_of(self.front, self.layers[0], front_layer, images)
        back_axis = _channels_of(self.back, self.layers[1], back_layer, images)
        same_layout = source.dim() == target.dim() and axis == back_axis
        if not same_layout or _positions(source, axis) != _positions(target, axis):
            raise ValueError(
                f"{front_layer!r} gives {list(source.shape[1:])} with its channels on axis {axis}, "
                f"{back_layer!r} {list(target.shape[1:])} on axis {back_axis}: "
                "expected outputs that differ in their channels alone"
            )
        self.stitch = _fitted(source, target, axis)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, C, H, W] to the second network's logits [N, classes]."""
        with torch.no_grad():
            source = _output(self.front, self.layers[0], images)
        replacement: Tensor = self.stitch(source)

        def replace(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            return replacement

        with _hooked(self.layers[1], replace):
            logits: Tensor = self.back(images)
        return logits


def stitch(
    front: nn.Module,
    back: nn.Module,
    data: Dataset,
    layers: str | tuple[str, str],
    *,
    epochs: int = 5,
    batch_size: int = 128,
    untrained: nn.Module | None = None,
    seed: int = 0,
) -> Stitched:
    """Stitch two classifiers, train the stitching layer, and evaluate it on the test split.

    Neither network is changed: copies are stitched.

    Args:
        front: its first half is used.
        back: its second half is used.
        data: the training split trains the stitching layer, without augmentation.
        layers: the layer behind which the first half of `front` ends, and the one behind which the
            second half of `back` begins; one name for both.
        epochs: of the stitching layer.
        batch_size: of the stitching layer.
        untrained: the first half of the reference; None: `front` with its layers' own random
            initialisation, drawn from `seed`.
        seed: of the order of the images and of the reference's weights.

    Raises:
        ValueError: layers that do not fit, images without a label, fewer than one epoch.
    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: expected at least 1")
    if int(data.train.labels.min()) < 0 or int(data.test.labels.min()) < 0:
        raise ValueError("an image has no label (-1): stitching needs all of them")
    names = (layers, layers) if isinstance(layers, str) else layers
    if untrained is None:
        untrained = _reinitialised(front, seed)
    networks = []
    for first in (front, untrained):
        network = _trained(first, back, data, names, epochs, batch_size, seed)
        networks.append(network)
    return Stitched(
        accuracy=_accuracy(networks[0], data.test),
        front=_accuracy(front, data.test),
        back=_accuracy(back, data.test),
        untrained=_accuracy(networks[1], data.test),
        layers=names,
        network=networks[0],
    )


def _trained(
    front: nn.Module,
    back: nn.Module,
    data: Dataset,
    names: tuple[str, str],
    epochs: int,
    batch_size: int,
    seed: int,
) -> StitchedNetwork:
    """Stitch copies of two networks, and train the layer between them with Adam."""
    first = data.normalize(data.train.images[:FIT_IMAGES])
    network = StitchedNetwork(copy.deepcopy(front), names[0], copy.deepcopy(back), names[1], first)
    optimizer = torch.optim.Adam(network.stitch.parameters(), lr=LEARNING_RATE)
    steps = epochs * -(-len(data.train) // batch_size)  # the last batch may be smaller
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(data.train), generator=generator)
        for index, images in data.train.batches(order, batch_size):
            logits = network(data.normalize(images))  # [B, classes]
            loss = F.cross_entropy(logits, data.train.labels[index.to(data.train.device)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network


def _accuracy(classifier: nn.Module, images: Images) -> float:
    return accuracy(features(classifier, images), images.labels)


def _reinitialised(network: nn.Module, seed: int) -> nn.Module:
    """Copy a network and draw its weights anew; the global random state stays as it was."""
    network = copy.deepcopy(network)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
    return network


def _layer(network: nn.Module, name: str) -> nn.Module:
    """Look up one layer; ValueError, with the nearest names, if there is none."""
    chosen = select_layers(network, name)
    if len(chosen) > 1:
        raise ValueError(f"layer {name!r} is {len(chosen)} layers, {', '.join(chosen)}: name one")
    return next(iter(chosen.values()))


def _output(network: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """Run a network and return what one of its layers gives."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        if not isinstance(output, Tensor):
            raise ValueError(f"a stitched layer must give a tensor, not a {type(output).__name__}")
        outputs.append(output.clone())  # it may be edited in place later

    with _hooked(layer, keep):
        network(images)
    if len(outputs) != 1:
        raise ValueError(f"a stitched layer must run once, not {len(outputs)} times")
    return outputs[0]


def _channels_of(network: nn.Module, layer: nn.Module, name: str, images: Tensor) -> int:
    """The axis of channels in what a layer gives [N, ...], as seen in a run."""
    axes = axes_of(network, {name: layer}, images)[name].given
    if axes.samples != 0:
        fault = axes.why or f"has its samples on axis {axes.samples}"
    elif axes.channels not in (1, axes.rank - 1):
        fault = "does not tell which axis holds its channels"
    else:
        return axes.channels
    raise ValueError(f"the output of {name!r} {fault}: stitch behind another layer")


@contextlib.contextmanager
def _hooked(layer: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _positions(output: Tensor, axis: int) -> tuple[int, ...]:
    """The shape without batch and channels: [N, C, H, W] -> (H, W); [N, T, D] -> (T,)."""
    return tuple(output.movedim(axis, -1).shape[1:-1])


def _rows(output: Tensor, axis: int) -> Tensor:
    """Every position as a row of channels [rows, C]."""
    output = output.movedim(axis, -1)  # [N, *positions, C]
    return output.reshape(-1, output.shape[-1])


def _fitted(source: Tensor, target: Tensor, axis: int) -> nn.Module:
    """Fit an affine map of the channels of one output to another, by ridge regression."""
    x = _rows(source, axis).double()
    y = _rows(target, axis).double()
    x_mean = x.mean(0)
    centred = x - x_mean
    gram = centred.T @ centred  # [C, C]
    penalty = RIDGE * gram.diagonal().mean().clamp(min=1e-12)
    gram.diagonal().add_(penalty)
    weight = torch.linalg.solve(gram, centred.T @ (y - y.mean(0))).T  # [C', C]
    bias = y.mean(0) - weight @ x_mean
    widths = x.shape[1], y.shape[1]
    layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    if axis == source.dim() - 1:
        layer = nn.utils.skip_init(nn.Linear, *widths, device=source.device)
    else:
        convolution = CONVOLUTIONS[source.dim() - 2]
        layer = nn.utils.skip_init(convolution, *widths, 1, device=source.device)
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(weight.view_as(layer.weight))
        layer.bias.copy_(bias)
    return layer
