"""Encoders that are judged: by name, from a file, from a run, or as a module.

torchvision:resnet50                random weights
torchvision:resnet50:IMAGENET1K_V2  those weights; :pretrained for the library's default ones
timm:vit_small_patch16_224:pretrained
RUN                                 a finished run, by its folder or name
FOLDER, FILE.pt                     weights, and a JSON beside them that says what they are
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simlab._checks import near
from simlab.compute import channels_last
from simlab.data import Dataset
from simlab.models import check_self_reference
from simlab.models.custom import feature_dim
from simlab.runs import Run, digest

from .fresh import fresh_copy, seeded
from .inputs import Input, Prepared, unchanged
from .libraries import Library, timm_library, torchvision_library
from .stored import described_encoder, encoder_of_run, is_description, rebuilt

LIBRARIES: dict[str, Callable[[str, str], Library]] = {
    "torchvision": torchvision_library,
    "timm": timm_library,
}


@dataclass
class Source:
    """An encoder, and where its untrained twin comes from.

    Attributes:
        name: What tables call it.
        trained: The encoder with its weights, a module or a function; None where its weights are
            random, so that each seed has its own.
        fresh: Builds the same architecture with fresh weights, drawn from a seed; None where that
            can't be done.
        expects: What it expects of images; None: those of each dataset, in its own size.
        fallback_size: Side of the images where it can't take those of a dataset as they are.
        channels: Of the images that it takes; 0: those of the dataset.
        why_not_fresh: Why there is no untrained twin.
        details: What else is known, as it is written beside the results.
    """

    name: str
    trained: Any = None
    fresh: Callable[[int], nn.Module] | None = None
    expects: Input | None = None
    fallback_size: int = 0
    channels: int = 0
    why_not_fresh: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Input] = field(default_factory=dict)  # those of datasets, by their names

    @functools.cached_property
    def first(self) -> Any:
        """The encoder itself; of an untrained one that of seed 0."""
        if self.trained is not None:
            return self.trained
        assert self.fresh is not None
        return self.fresh(0)

    def input_for(self, data: Dataset) -> Input:
        """What the encoder expects of a dataset's images.

        An encoder without trained weights expects nothing of its own: it gets them as they are,
        unless it can't take their size.
        """
        if self.expects is not None:
            return self.expects
        if data.name not in self.inputs:
            self.inputs[data.name] = self._first_that_fits(data)
        return self.inputs[data.name]

    def _first_that_fits(self, data: Dataset) -> Input:
        """The images as they are; else grey ones in three channels; else in the published size."""
        candidates = [Input.of(data, self.channels), Input.of(data, self.channels or 3)]
        if self.fallback_size:
            candidates.append(Input.of(data, self.channels, self.fallback_size))
        for expects in candidates:
            if _takes(self.first, expects, data):
                return expects
        return candidates[0]  # whose error is then the user's

    def prepared(self, encoder: Any, data: Dataset, device: torch.device) -> Prepared:
        """The encoder behind its preprocessing, tried on two images of the dataset.

        Raises:
            ValueError: It does not give features [N, D].
        """
        module = Prepared(encoder, self.input_for(data)).eval()
        channels_last(module, device)
        _try(module, data, self.name)
        return module


def open_encoder(
    encoder: Any,
    input: Input | None = None,
    name: str = "",
    untrained: Callable[[], nn.Module] | None = None,
) -> Source:
    """Open an encoder for evaluation.

    Args:
        encoder: See the module's head; or a `Run`, a module or a function of normalised images
            [N, C, S, S] that returns features [N, D].
        input: What it expects of images, in place of what its source says.
        name: What tables call it.
        untrained: Builds the same architecture with fresh weights, where simlab can't.

    Raises:
        ValueError: There is no such encoder.
        FileNotFoundError: There is no such run or file.
        ConnectionError: Its weights can't be fetched.
        ImportError: Its library is not installed.
    """
    if isinstance(encoder, str | Path):
        with torch.random.fork_rng():  # architectures are built, and the caller's state stays
            source = _by_name(str(encoder))
    elif isinstance(encoder, Run):
        source = _of_run(encoder)
    elif isinstance(encoder, nn.Module):
        source = _of_module(encoder)
    elif callable(encoder) and not isinstance(encoder, type):
        label = getattr(encoder, "__name__", type(encoder).__name__)
        source = Source(label, encoder, why_not_fresh="a function has no weights to draw anew")
    else:
        raise TypeError(
            f"encoder is {encoder!r}: expected a name, a Run, a module or a function of images"
        )
    source.name = name or source.name
    if input is not None:
        source.expects = input
    if untrained is not None:
        source.fresh = seeded(untrained)
    return source


def weights_digest(encoder: Any) -> str:
    """A digest of a module's parameters and buffers; empty for a function."""
    if not isinstance(encoder, nn.Module):
        return ""
    texts = []
    for name, value in encoder.state_dict().items():
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        texts.append(f"{name} {tuple(value.shape)} {digest(data)}")
    return digest("\n".join(texts).encode())


# ------------------------------------------------------------------------------------ the kinds


def _by_name(text: str) -> Source:
    library, _, rest = text.partition(":")
    if library in LIBRARIES:
        model, _, weights = rest.partition(":")
        return _of_library(text, LIBRARIES[library](model, weights))
    if rest and len(library) > 1:  # C:\ is a drive
        raise ValueError(
            f"library {library!r} of encoder {text!r} is unknown{near(library, LIBRARIES)}"
        )
    path = Path(text).expanduser()
    if path.suffix in (".pt", ".pth") or is_description(path):
        return _of_file(path)
    return _of_run(text)


def _of_library(name: str, library: Library) -> Source:
    return Source(
        name=name,
        trained=library.trained,
        fresh=seeded(library.build),
        expects=library.expects if library.trained is not None else None,
        fallback_size=library.expects.size,
        channels=library.expects.channels,
        details={"weights": library.weights or "random", "library": library.version},
    )


def _of_run(run: Run | str) -> Source:
    opened, encoder = encoder_of_run(run)
    described = opened.description.get("encoder", {})
    if described.get("module"):
        source = _of_module(encoder)
    else:
        source = Source("", copy.deepcopy(encoder), seeded(lambda: rebuilt(described)))
    source.name = opened.folder.name
    source.expects = Input.from_dict(opened.preprocessing.to_dict())
    source.details = {"run": opened.name, "trained_on": opened.config["data"]}
    return source


def _of_file(path: Path) -> Source:
    file = described_encoder(path)
    library = None
    kind, _, rest = file.architecture.partition(":")
    if kind in LIBRARIES:
        library = LIBRARIES[kind](rest, "")
    build = library.build if library is not None else lambda: rebuilt(file.described)
    encoder = build()
    file.load_into(encoder, library.head if library is not None else "")
    return Source(
        name=str(path),
        trained=encoder,
        fresh=seeded(build),
        expects=Input.from_dict(file.preprocessing),
        details={"weights": str(file.weights), "trained_on": file.trained_on},
    )


def _of_module(module: nn.Module) -> Source:
    module = getattr(module, "_orig_mod", module)  # of a compiled one what was compiled
    check_self_reference(module)
    source = Source(type(module).__name__, copy.deepcopy(module).eval())  # the caller's stays
    try:
        source.fresh = fresh_copy(module)
    except ValueError as error:
        source.why_not_fresh = str(error)
    return source


# ---------------------------------------------------------------------------------- the first try


def _takes(encoder: Any, expects: Input, data: Dataset) -> bool:
    """Whether an encoder runs on a dataset's images in that size."""
    try:
        with torch.no_grad():
            Prepared(encoder, expects).cpu().eval()(_two_images(data))
    except Exception:  # whatever a module may raise
        return False
    return True


def _try(module: Prepared, data: Dataset, name: str) -> None:
    encoder = module.encoder
    expects = module.expects
    device = module.get_buffer("mean").device
    try:
        with torch.no_grad():
            module(_two_images(data).to(device))
    except Exception as error:  # whatever a module may raise
        raise ValueError(f"{name} does not take images ({expects}): {error}") from error
    is_compiled = isinstance(encoder, torch.jit.ScriptModule | torch.fx.GraphModule)
    if isinstance(encoder, nn.Module) and not is_compiled:
        feature_dim(encoder, expects.channels, expects.size)  # which warns of a classifier's head


def _two_images(data: Dataset) -> torch.Tensor:
    images = unchanged(data).train.subset(torch.arange(2)).images
    return images.cpu().float() / 255
