"""SimSiam on plain vectors: two small heads and a generator, everything to be checked by hand.

The smallest model in which SimSiam's loss, its collapse and its gradients can be followed number
by number. NumPy in float32, without autograd. The heads are

    z = L2(W2 relu(W1 x + b1) + b2)    project: encoder output [d_encoder] -> [d_out]
    p = L2(V2 relu(V1 z + c1) + c2)    predict: [d_out] -> [d_out]

without BatchNorm, and the predictor sees the normalised z (the paper's sees it unnormalised).
Vectors [D] and batches [N, D] are taken as torch tensors, NumPy arrays or lists, and come back as
the same kind (tensors detached, on their device, float32).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

Vectors = Tensor | np.ndarray | list
SomeVectors = TypeVar("SomeVectors", bound=Vectors)

MIN_NORM = 1e-12  # a shorter vector is divided by this instead of by its norm

# name of a weight here: its name in TorchHeads
TORCH_NAMES = {
    "proj_w1": "projector.0.weight",
    "proj_b1": "projector.0.bias",
    "proj_w2": "projector.2.weight",
    "proj_b2": "projector.2.bias",
    "pred_w1": "predictor.0.weight",
    "pred_b1": "predictor.0.bias",
    "pred_w2": "predictor.2.weight",
    "pred_b2": "predictor.2.bias",
}


class InvalidParameter(ValueError):  # noqa: N818 - the name is the document's
    """A value that cannot be used."""


class DimensionMismatch(ValueError):  # noqa: N818 - the name is the document's
    """A wrong length; `expected` and `got` hold the two numbers."""

    def __init__(self, expected: int, got: int, what: str = "vector length") -> None:
        super().__init__(f"{what}: expected {expected}, got {got}")
        self.expected = expected
        self.got = got


def _checked_int(name: str, value: Any, at_least: int) -> int:
    if not isinstance(value, (int, np.integer)) or value < at_least:
        raise InvalidParameter(f"{name} must be an integer >= {at_least}, got {value!r}")
    return int(value)


class LcgRng:
    """A 64-bit linear congruential generator (Knuth's MMIX constants) with float32 normals.

    The same numbers on every machine and in every language; for teaching, not for statistics.
    """

    def __init__(self, seed: int) -> None:
        self.state = (_checked_int("seed", seed, -(2**63)) + 1) % 2**64

    def __repr__(self) -> str:
        return f"LcgRng(state={self.state})"

    def next_u32(self) -> int:
        """Draw an integer in [0, 2^32)."""
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return ((self.state >> 33) ^ self.state) % 2**32

    def next_f32(self) -> float:
        """Draw a uniform in [0, 1], 1 included: the float32 of a u32 may round up to 2^32."""
        return float(np.float32(self.next_u32()) / np.float32(2**32))

    def next_normal_pair(self) -> tuple[float, float]:
        """Draw two independent standard normals from two uniforms (Box & Muller)."""
        first, second = self.fill_normal(2).tolist()
        return first, second

    def fill_normal(self, shape: int | tuple[int, ...]) -> np.ndarray:
        """Draw standard normals, float32, row-major. An odd last one still draws a whole pair."""
        count = math.prod(np.atleast_1d(shape).tolist())
        draws = [self.next_f32() for _ in range(count + count % 2)]
        uniforms = np.array(draws, np.float32).reshape(-1, 2)
        away_from_zero = np.minimum(uniforms[:, 0] + np.float32(1e-10), 1)
        radius = np.sqrt(np.float32(-2) * np.log(away_from_zero))
        angle = np.float32(2 * math.pi) * uniforms[:, 1]
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return pairs.reshape(-1)[:count].reshape(shape)

    def next_usize(self, n: int) -> int:
        """Draw an integer in [0, n), by remainder."""
        return self.next_u32() % _checked_int("n", n, 1)

    def shuffle(self, items: Vectors) -> None:
        """Shuffle in place along the first axis (Fisher-Yates)."""
        order = list(range(len(items)))
        for i in range(len(order) - 1, 0, -1):
            j = self.next_usize(i + 1)
            order[i], order[j] = order[j], order[i]
        # Through an index: rows of an array are views, and swapping views loses one of them.
        shuffled: Any = [items[i] for i in order] if isinstance(items, list) else items[order]
        items[:] = shuffled


def _read(x: Vectors, length: int) -> np.ndarray:
    """Read x as a finite float32 array [length] or [N, length]."""
    values = x.detach().float().cpu().numpy() if isinstance(x, Tensor) else x
    array = np.asarray(values, np.float32)
    is_vector_or_batch = array.ndim in (1, 2) and len(np.atleast_2d(array)) > 0
    if not is_vector_or_batch or not np.isfinite(array).all():
        raise InvalidParameter(
            "expected a vector [D] or a batch [N, D] of finite numbers, got "
            f"shape {array.shape}, {np.isfinite(array).sum()} finite"
        )
    if array.shape[-1] != length:
        raise DimensionMismatch(length, array.shape[-1])
    return array


def _like(x: SomeVectors, array: np.ndarray) -> SomeVectors:
    """Return the array as the kind of container that x is."""
    values: Any = array
    if isinstance(x, Tensor):
        values = torch.from_numpy(array).to(x.device)
    elif not isinstance(x, np.ndarray):
        values = array.tolist()
    return cast(SomeVectors, values)


def _norms(v: np.ndarray) -> np.ndarray:
    """Norms of the rows [..., 1], never below MIN_NORM."""
    norms: np.ndarray = np.maximum(np.sqrt((v * v).sum(-1, keepdims=True)), MIN_NORM)
    return norms


def _other_view(rows: np.ndarray) -> np.ndarray:
    """Rows [2N, D] of both views, with the views exchanged."""
    return np.roll(rows, len(rows) // 2, axis=0)


@dataclass(frozen=True)
class VectorSimSiamConfig:
    """Widths of the two heads; each at least 1, checked in this order."""

    d_encoder: int = 64  # length of the encoder's output x
    d_projector: int = 128  # width of the projector's hidden layer
    d_predictor: int = 64  # width of the predictor's hidden layer
    d_out: int = 32  # length of z and p

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _checked_int(name, value, 1)


class VectorSimSiam:
    """Projector and predictor with Kaiming-normal weights (std sqrt(2 / fan_in)) and zero biases.

    `weights` holds the eight arrays, [out, in] and [out], in the order in which they are drawn
    (biases draw nothing). Wrong input raises InvalidParameter or DimensionMismatch.
    """

    def __init__(self, config: VectorSimSiamConfig, rng: LcgRng) -> None:
        self.config = config
        self.weights: dict[str, np.ndarray] = {}
        self._draw_layer("proj_w1", "proj_b1", config.d_encoder, config.d_projector, rng)
        self._draw_layer("proj_w2", "proj_b2", config.d_projector, config.d_out, rng)
        self._draw_layer("pred_w1", "pred_b1", config.d_out, config.d_predictor, rng)
        self._draw_layer("pred_w2", "pred_b2", config.d_predictor, config.d_out, rng)

    def _draw_layer(self, weight: str, bias: str, fan_in: int, fan_out: int, rng: LcgRng) -> None:
        std = np.sqrt(np.float32(2) / np.float32(fan_in))
        self.weights[weight] = rng.fill_normal((fan_out, fan_in)) * std
        self.weights[bias] = np.zeros(fan_out, np.float32)

    def __repr__(self) -> str:
        count = sum(weight.size for weight in self.weights.values())
        return f"VectorSimSiam({self.config}, {count:,} parameters)"

    def copy(self) -> VectorSimSiam:
        """Copy the model, weights included."""
        return copy.deepcopy(self)

    __copy__ = copy  # copy.copy must not share the weights either

    @property
    def d_out(self) -> int:
        """Length of z and p."""
        return self.config.d_out

    def _head(self, head: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hidden layer before ReLU [..., hidden], and output before the norm [..., d_out]."""
        hidden = x @ self.weights[f"{head}_w1"].T + self.weights[f"{head}_b1"]
        output = np.maximum(hidden, 0) @ self.weights[f"{head}_w2"].T + self.weights[f"{head}_b2"]
        return hidden, output

    def _apply(self, head: str, x: np.ndarray) -> np.ndarray:
        """Output of a head, "proj" or "pred", as unit vectors [..., d_out]."""
        _, output = self._head(head, x)
        unit: np.ndarray = output / _norms(output)
        return unit

    def project(self, x: SomeVectors) -> SomeVectors:
        """Project encoder outputs [d_encoder] or [N, d_encoder] to unit vectors z [..., d_out]."""
        return _like(x, self._apply("proj", _read(x, self.config.d_encoder)))

    def predict(self, z: SomeVectors) -> SomeVectors:
        """Predict from projections z [..., d_out] the unit vectors p [..., d_out]."""
        return _like(z, self._apply("pred", _read(z, self.d_out)))

    def _stack_views(self, x1: Vectors, x2: Vectors) -> np.ndarray:
        """The two views one below the other, [2N, D]; row i's other view is i + N, mod 2N."""
        view1 = np.atleast_2d(_read(x1, self.config.d_encoder))
        view2 = np.atleast_2d(_read(x2, self.config.d_encoder))
        if len(view1) != len(view2):
            raise DimensionMismatch(len(view1), len(view2), "vectors in view 2")
        return np.concatenate([view1, view2])

    def loss(self, x1: Vectors, x2: Vectors) -> float:
        """Compute -(p1.z2 + p2.z1) / 2 of two views [D], or its mean over [N, D]; from -1 to 1.

        SimSiam, equations 1 to 4. Stop-gradient does not change the value.
        """
        z = self._apply("proj", self._stack_views(x1, x2))  # [2N, d_out]
        p = self._apply("pred", z)
        return float(-(p * _other_view(z)).sum(1).mean())

    def set_identity_predictor(self) -> None:
        """Make predict(z) = z for unit z, as relu(z) - relu(-z); needs d_predictor = 2 d_out."""
        if self.config.d_predictor != 2 * self.d_out:
            raise InvalidParameter(
                "the identity predictor needs d_predictor = 2 d_out = "
                f"{2 * self.d_out}, got {self.config.d_predictor}"
            )
        identity = np.eye(self.d_out, dtype=np.float32)
        self.weights["pred_w1"] = np.vstack([identity, -identity])
        self.weights["pred_b1"] = np.zeros(2 * self.d_out, np.float32)
        self.weights["pred_w2"] = np.hstack([identity, -identity])
        self.weights["pred_b2"] = np.zeros(self.d_out, np.float32)

    def _backward(self, head: str, x: np.ndarray, grad_unit: np.ndarray) -> tuple[np.ndarray, dict]:
        """Go back through a head at x, from the gradient of its unit vectors [M, d_out].

        Returns the gradient of x [M, D] and those of the head's four weights.
        """
        hidden, output = self._head(head, x)
        norms = _norms(output)
        unit = output / norms
        # v / |v| ignores the length of v: what lies along v is lost. Below MIN_NORM it is linear.
        along_unit = unit * (unit * grad_unit).sum(1, keepdims=True)
        grad_output = np.where(norms > MIN_NORM, grad_unit - along_unit, grad_unit) / norms
        grad_hidden = grad_output @ self.weights[f"{head}_w2"]
        grad_hidden = grad_hidden * (hidden > 0)  # through the ReLU
        grads = {
            f"{head}_w2": grad_output.T @ np.maximum(hidden, 0),
            f"{head}_b2": grad_output.sum(0),
            f"{head}_w1": grad_hidden.T @ x,
            f"{head}_b1": grad_hidden.sum(0),
        }
        return grad_hidden @ self.weights[f"{head}_w1"], grads

    def gradients(self, x1: Vectors, x2: Vectors, stop_gradient: bool = True) -> dict[str, Any]:
        """Compute dL/dw of the eight weights, and dL/dx as "x1" and "x2".

        With stop-gradient z1 learns through p1 only; without it L pulls at z2 in p1.z2 as well. The
        weights' are NumPy arrays, the others of the kind and shape of x1 and x2.
        """
        x = self._stack_views(x1, x2)  # [2N, D]
        z = self._apply("proj", x)
        # L = -sum(p * other z) / 2N, through p
        grad_z, grads = self._backward("pred", z, -_other_view(z) / len(x))
        if not stop_gradient:  # through z, the target of the other view
            grad_z = grad_z - _other_view(self._apply("pred", z)) / len(x)
        grad_x, projector_grads = self._backward("proj", x, grad_z)
        grad_x1, grad_x2 = np.split(grad_x, 2)
        return {
            **grads,
            **projector_grads,
            "x1": _like(x1, grad_x1[0] if np.ndim(x1) == 1 else grad_x1),
            "x2": _like(x2, grad_x2[0] if np.ndim(x2) == 1 else grad_x2),
        }

    def to_torch(self) -> TorchHeads:
        """Make the same heads as an nn.Module with copies of the weights; draws no numbers."""
        with torch.device("meta"):
            heads = TorchHeads(self.config)
        state = {TORCH_NAMES[name]: torch.tensor(w) for name, w in self.weights.items()}
        heads.load_state_dict(state, assign=True)
        return heads

    @classmethod
    def from_torch(cls, module: nn.Module) -> VectorSimSiam:
        """Copy the weights of a module whose `projector` and `predictor` are Linear-ReLU-Linear.

        Raises:
            InvalidParameter: On other layers, missing biases, or widths that do not fit together.
        """
        projector: Any = module.projector
        predictor: Any = module.predictor
        config = VectorSimSiamConfig(
            d_encoder=projector[0].in_features,
            d_projector=projector[0].out_features,
            d_predictor=predictor[0].out_features,
            d_out=projector[-1].out_features,
        )
        model = cls(config, LcgRng(0))
        for name, expected in model.to_torch().named_children():
            got = getattr(module, name)
            if repr(got) != repr(expected):
                raise InvalidParameter(f"{name}: expected {expected}, got {got}")
        for name, torch_name in TORCH_NAMES.items():
            parameter = module.get_parameter(torch_name)
            model.weights[name] = parameter.detach().float().cpu().numpy().copy()
        return model


class TorchHeads(nn.Module):
    """`VectorSimSiam` with autograd: the same heads, the same loss."""

    def __init__(self, config: VectorSimSiamConfig) -> None:
        super().__init__()
        self.projector = _torch_head(config.d_encoder, config.d_projector, config.d_out)
        self.predictor = _torch_head(config.d_out, config.d_predictor, config.d_out)

    def project(self, x: Tensor) -> Tensor:
        """Project encoder outputs [..., d_encoder] to unit vectors z [..., d_out]."""
        return nn.functional.normalize(self.projector(x), dim=-1, eps=MIN_NORM)

    def predict(self, z: Tensor) -> Tensor:
        """Predict from projections z [..., d_out] the unit vectors p [..., d_out]."""
        return nn.functional.normalize(self.predictor(z), dim=-1, eps=MIN_NORM)

    def forward(self, x1: Tensor, x2: Tensor, stop_gradient: bool = True) -> Tensor:
        """Compute the loss of views [d_encoder] or [N, d_encoder], a scalar."""
        z = self.project(torch.stack([x1, x2]))  # [2, (N,) d_out]
        target = z.detach() if stop_gradient else z
        return -(self.predict(z) * target.flip(0)).sum(-1).mean()


def _torch_head(d_in: int, d_hidden: int, d_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_in, d_hidden), nn.ReLU(), nn.Linear(d_hidden, d_out))
