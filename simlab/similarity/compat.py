"""The API of simtorch 0.2 (Apache-2.0), with its defects mended and Procrustes and CCA finished."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import Axes as LayerAxes
from ..layers import contains, select_layers, tapped
from .batches import Data
from .comparison import compare
from .registry import Measure
from .result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Device = torch.device | str | None


class SimilarityModel:
    """A model, its name, and the layers whose names contain one of `layers_to_include`.

    The model is left as it is.

    Attributes:
        layer_names: names of the chosen layers.
        model_activations: {layer: tensor}. After a call `sm(x)` they are the outputs; after
            `compute` only their shapes (on the meta device), since the features were freed at once.
    """

    def __init__(
        self,
        model: nn.Module,
        model_name: str | None = None,
        layers_to_include: list[str] | None = None,
        device: Device = "cpu",
    ) -> None:
        self.model = model
        self.model_name = type(model).__name__ if model_name is None else model_name
        self.layers_to_include = [contains(text) for text in layers_to_include or []] or None
        self.layer_names = list(select_layers(model, self.layers_to_include))
        self.device = device
        self.model_activations: dict[str, Tensor] = {}

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Return the activations of one batch, in order of execution."""
        activations: dict[str, Tensor] = {}

        def keep(name: str, module: nn.Module, output: Tensor | None, axes: LayerAxes) -> None:
            if output is not None:
                activations[name] = output.clone()  # a later in-place edit must not reach it

        with tapped(self.model, self.layer_names, keep, device=self.device) as forward:
            forward(x)
        self.model_activations = activations
        return activations

    @property
    def n_layers(self) -> int:
        """The number of layers that have run; 0 with a warning before any did."""
        if not self.model_activations:
            warnings.warn("no activations yet: call the model or compute() first", stacklevel=2)
        return len(self.model_activations)


class BaseSimilarity:
    """A measure of two models' layers. A new one is a subclass with the method `measure`.

    Attributes:
        similarity_name: for titles.
        samples: how many of the loader's first samples are taken as one set.
        settings: keywords of `compare` that make `measure` unnecessary.
        sim_matrix: what `compute` returned.
        result: the whole Result, with names, reasons and intervals.
    """

    similarity_name = "base"
    samples = 1024
    settings: dict[str, Any] = {}

    def __init__(
        self, sim_model1: SimilarityModel, sim_model2: SimilarityModel, device: Device = "cpu"
    ) -> None:
        self.sim_model1 = sim_model1
        self.sim_model2 = sim_model2
        self.device = device
        self.sim_matrix: np.ndarray | None = None
        self.result: Result | None = None

    def measure(self, x: Tensor, y: Tensor) -> float:
        """Measure centred features x [n, p] and y [n, q] of the same n samples."""
        raise NotImplementedError(f"{type(self).__name__} has no method measure(x, y)")

    def compute(self, dataloader: Data) -> np.ndarray:
        """Compare the layers on the batches X or (X, ...) of a loader.

        Returns:
            [layers of model 1, layers of model 2] in float64, kept as `sim_matrix`.
        """
        measure = Measure(self.measure, name=self.similarity_name)
        named = {self.sim_model1.model_name: self.sim_model1}
        name_2 = self.sim_model2.model_name
        if name_2 in named:
            name_2 += " (2)"
        named[name_2] = self.sim_model2
        keywords: dict[str, Any] = {"measures": measure, "samples": self.samples} | self.settings
        self.result = compare(
            {name: sim_model.model for name, sim_model in named.items()},
            dataloader,
            {name: sim_model.layers_to_include for name, sim_model in named.items()},
            device=self.device,
            inputs=0,  # as simtorch, which takes X of (X, ...)
            **keywords,
        )
        for name, sim_model in named.items():
            sim_model.model_activations = {
                layer.name: torch.empty(0, *layer.shape, device="meta")
                for layer in self.result.layers_of(name)
            }
        self.sim_matrix = self.result.matrix
        return self.sim_matrix

    def plot_similarity(
        self,
        title: str | None = None,
        xlabel: str | None = None,
        ylabel: str | None = None,
        savefig: bool = False,
        save_path: str | Path = "../output",
        plot_cmap: str = "magma",
    ) -> "Axes":
        """Draw a heat map with layer names, model 1 on y and model 2 on x.

        Args:
            title: by default the measure and the models.
            xlabel: by default the name of model 2.
            ylabel: by default the name of model 1.
            savefig: whether to save it, under its title.
            save_path: the folder for that; made if need be.
            plot_cmap: name of a colour map.

        Returns:
            The axes drawn on.

        Raises:
            RuntimeError: nothing was computed.
        """
        if self.result is None:
            raise RuntimeError("call compute(dataloader) before plot_similarity()")
        name_1 = self.sim_model1.model_name
        name_2 = self.sim_model2.model_name
        if title is None:
            title = f"{self.similarity_name}: {name_1} vs {name_2}"
        ax = self.result.plot(cmap=plot_cmap)
        ax.set_xlabel(name_2 if xlabel is None else xlabel)
        ax.set_ylabel(name_1 if ylabel is None else ylabel)
        ax.set_title(title)
        if savefig:
            from matplotlib.figure import SubFigure

            folder = Path(save_path)
            folder.mkdir(parents=True, exist_ok=True)
            name = "_".join(title.replace("/", "-").split())
            figure = ax.figure
            assert not isinstance(figure, SubFigure)  # `plot` has made it
            figure.savefig(folder / f"{name}.png")
        return ax


class CKA(BaseSimilarity):
    """Linear CKA of sums over batches, biased or unbiased.

    `published=True` is the estimator of most papers: biased in each batch, averaged over batches.
    """

    similarity_name = "CKA"

    def __init__(
        self,
        sim_model1: SimilarityModel,
        sim_model2: SimilarityModel,
        device: Device = "cpu",
        unbiased: bool = False,
        published: bool = False,
    ) -> None:
        super().__init__(sim_model1, sim_model2, device)
        if unbiased and published:
            raise ValueError("unbiased and published exclude each other: published is biased")
        estimator = "biased"
        if unbiased:
            estimator = "debiased"
        if published:
            estimator = "published"
        self.settings = {"measures": "cka", "samples": None, "estimator": estimator}


class DeltaCKA(CKA):
    """Deconfounded CKA: the images' own similarity is regressed out (Cui 2022).

    `remove_negative_eig` sets negative eigenvalues of the residual Grams to 0, batch by batch.
    """

    similarity_name = "dCKA"

    def __init__(
        self,
        sim_model1: SimilarityModel,
        sim_model2: SimilarityModel,
        device: Device = "cpu",
        remove_negative_eig: bool = False,
        **estimator: bool,
    ) -> None:
        super().__init__(sim_model1, sim_model2, device, **estimator)
        options = {"deconfounded_cka": {"clamp": remove_negative_eig}}
        self.settings |= {"measures": "deconfounded_cka", "options": options}


class Procrustes(BaseSimilarity):
    """1 - |X'Y|_* of the first 1,024 samples, in [0, 1]; `compare` has it in other forms."""

    similarity_name = "Procrustes"
    settings = {"measures": "procrustes_complement"}


class CCA(BaseSimilarity):
    """Mean canonical correlation of the first 1,024 samples; 1 for layers of n-1 directions."""

    similarity_name = "CCA"
    settings = {"measures": "cca"}
