"""The API of simtorch 0.2 (Apache-2.0), with its defects mended and Procrustes and CCA finished."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import contains, select_layers, tapped
from .compare import compare
from .result import Result


class SimilarityModel:
    """A model, its name, and the layers whose names contain one of `layers_to_include`.

    The model is left as it is. `model_activations` is {layer: tensor}: after a call `sm(x)` its
    values, after `compute` its shapes only (on the meta device: the features were freed at once).
    """

    def __init__(
        self,
        model: nn.Module,
        model_name: str | None = None,
        layers_to_include: list[str] | None = None,
        device: Any = "cpu",
    ) -> None:
        self.model, self.device = model, device
        self.model_name = type(model).__name__ if model_name is None else model_name
        self.layers_to_include = [contains(text) for text in layers_to_include or []] or None
        self.layer_names = list(select_layers(model, self.layers_to_include))
        self.model_activations: dict[str, Tensor] = {}

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Activations of one batch, in order of first execution."""
        found: dict[str, Tensor] = {}

        def keep(name: str, module: nn.Module, output: Tensor | None) -> None:
            if output is not None:
                found[name] = output.clone()  # a later in-place edit must not reach it

        with tapped(self.model, self.layer_names, keep, device=self.device) as forward:
            forward(x)
        self.model_activations = found
        return found

    @property
    def n_layers(self) -> int:
        if not self.model_activations:
            warnings.warn("no activations yet: call the model or compute() first", stacklevel=2)
        return len(self.model_activations)


class BaseSimilarity:
    """A measure of two models' layers. A new one is a subclass with the method `measure`."""

    similarity_name = "base"
    samples = 1024  # the loader's first ones, for measures that need all samples at once
    settings: dict[str, Any] = {}  # keywords of `compare` that make `measure` unnecessary

    def __init__(
        self, sim_model1: SimilarityModel, sim_model2: SimilarityModel, device: Any = "cpu"
    ) -> None:
        self.sim_model1, self.sim_model2, self.device = sim_model1, sim_model2, device
        self.sim_matrix: np.ndarray | None = None
        self.result: Result | None = None

    def measure(self, x: Tensor, y: Tensor) -> float:
        """How alike x [n, p] and y [n, q] are: centred features of the same n samples."""
        raise NotImplementedError(f"{type(self).__name__} has no method measure(x, y)")

    def compute(self, dataloader: Any) -> np.ndarray:
        """[layers of model 1, layers of model 2] in float64, kept as `sim_matrix`.

        Batches are X or (X, ...); names, reasons and intervals are in `result`.
        """

        def own(x: Tensor, y: Tensor) -> float:
            return self.measure(x, y)

        own.__name__ = self.similarity_name
        one, two = self.sim_model1, self.sim_model2
        pair = {one.model_name: one}
        pair[two.model_name + " (2)" * (two.model_name in pair)] = two
        self.result = compare(
            {name: sm.model for name, sm in pair.items()},
            dataloader,
            {name: sm.layers_to_include for name, sm in pair.items()},
            device=self.device,
            **{"measures": own, "probe": self.samples} | self.settings,
        )
        for name, sm in pair.items():
            sm.model_activations = {
                layer.name: torch.empty(0, *layer.shape, device="meta")
                for layer in self.result.of(name)
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
    ) -> Any:
        """Heat map with layer names, model 1 on y and model 2 on x -> Axes."""
        if self.result is None:
            raise RuntimeError("call compute(dataloader) before plot_similarity()")
        one, two = self.sim_model1.model_name, self.sim_model2.model_name
        title = f"{self.similarity_name}: {one} vs {two}" if title is None else title
        ax = self.result.plot(cmap=plot_cmap)
        ax.set(
            xlabel=two if xlabel is None else xlabel,
            ylabel=one if ylabel is None else ylabel,
            title=title,
        )
        if savefig:
            Path(save_path).mkdir(parents=True, exist_ok=True)
            name = "_".join(title.replace("/", "-").split()) + ".png"
            ax.figure.savefig(Path(save_path) / name)
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
        device: Any = "cpu",
        unbiased: bool = False,
        published: bool = False,
    ) -> None:
        super().__init__(sim_model1, sim_model2, device)
        if unbiased and published:
            raise ValueError("unbiased and published exclude each other: published is biased")
        estimator = "published" if published else "debiased" if unbiased else "biased"
        self.settings = {"measures": "cka", "probe": None, "estimator": estimator}


class DeltaCKA(CKA):
    """Deconfounded CKA: the images' own similarity is regressed out (Cui 2022).

    `remove_negative_eig` sets negative eigenvalues of the residual Grams to 0, batch by batch.
    """

    similarity_name = "dCKA"

    def __init__(
        self,
        sim_model1: SimilarityModel,
        sim_model2: SimilarityModel,
        device: Any = "cpu",
        remove_negative_eig: bool = False,
        **estimator: bool,
    ) -> None:
        super().__init__(sim_model1, sim_model2, device, **estimator)
        self.settings |= {
            "measures": "deconfounded_cka",
            "options": {"deconfounded_cka": {"clamp": remove_negative_eig}},
        }


class Procrustes(BaseSimilarity):
    """1 - |X'Y|_* of the first 1,024 samples, in [0, 1]; `compare` knows it in other forms."""

    similarity_name, settings = "Procrustes", {"measures": "procrustes_complement"}


class CCA(BaseSimilarity):
    """Mean canonical correlation of the first 1,024 samples; 1 for layers of n-1 directions."""

    similarity_name, settings = "CCA", {"measures": "cca"}
