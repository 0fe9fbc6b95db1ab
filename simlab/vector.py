"""SimSiam on plain vectors: two small heads, their own generator, everything to be checked by hand.

The smallest model in which SimSiam's loss, its collapse and its gradients can be followed number
by number. NumPy in float32, without autograd. The heads are

    z = L2(W2 relu(W1 x + b1) + b2)    project: encoder output [d_encoder] -> [d_out]
    p = L2(V2 relu(V1 z + c1) + c2)    predict: [d_out] -> [d_out]

without BatchNorm, and the predictor sees the normalised z (the paper's sees it unnormalised).
Vectors [D] and batches [N, D] are taken as torch tensors, NumPy arrays or lists, and come back as
the same kind (tensors detached, on their device, float32).
"""

import copy
import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOOR = 1e-12  # least norm to divide by
_TORCH = {f"{ours}_{kind[0]}{i + 1}": f"{theirs}.{2 * i}.{kind}"  # proj_w1: projector.0.weight
          for ours, theirs in (("proj", "projector"), ("pred", "predictor"))
          for i in (0, 1) for kind in ("weight", "bias")}
Vectors = Tensor | np.ndarray | list


class VectorSimSiamError(ValueError):
    """Whatever this module refuses."""


class InvalidParameter(VectorSimSiamError):
    """A value that cannot be used."""


class DimensionMismatch(VectorSimSiamError):
    """A wrong length; `expected` and `got` hold the two numbers."""

    def __init__(self, expected: int, got: int, what: str = "vector length"):
        super().__init__(f"{what}: expected {expected}, got {got}")
        self.expected, self.got = expected, got


class LcgRng:
    """A 64-bit linear congruential generator (Knuth's MMIX constants) with float32 normals.

    The same numbers on every machine and in every language; for teaching, not for statistics."""

    def __init__(self, seed: int):
        if not isinstance(seed, (int, np.integer)):
            raise InvalidParameter(f"seed must be an integer, got {seed!r}")
        self.state = (int(seed) + 1) % 2**64

    def __repr__(self) -> str:
        return f"LcgRng(state={self.state})"

    def next_u32(self) -> int:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return ((self.state >> 33) ^ self.state) % 2**32

    def next_f32(self) -> float:
        """Uniform in [0, 1], 1 included: the float32 of a u32 may round up to 2^32."""
        return float(np.float32(self.next_u32()) / np.float32(2**32))

    def next_normal_pair(self) -> tuple[float, float]:
        """Two independent standard normals from two uniforms (Box & Muller)."""
        return tuple(self.fill_normal(2).tolist())

    def fill_normal(self, shape: int | tuple[int, ...]) -> np.ndarray:
        """Standard normals, float32, row-major. An odd last one still draws a whole pair."""
        n = math.prod(np.atleast_1d(shape).tolist())
        u = np.array([self.next_f32() for _ in range(n + n % 2)], np.float32).reshape(-1, 2)
        radius = np.sqrt(np.float32(-2) * np.log(np.minimum(u[:, 0] + np.float32(1e-10), 1)))
        angle = np.float32(2 * math.pi) * u[:, 1]
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return pairs.reshape(-1)[:n].reshape(shape)

    def next_usize(self, n: int) -> int:
        """An integer in [0, n), by remainder."""
        if n < 1:
            raise InvalidParameter(f"next_usize needs n >= 1, got {n}")
        return self.next_u32() % n

    def shuffle(self, items: Vectors) -> None:
        """Fisher-Yates, in place, along the first axis."""
        order = list(range(len(items)))
        for i in range(len(order) - 1, 0, -1):
            j = self.next_usize(i + 1)
            order[i], order[j] = order[j], order[i]
        # Through an index: rows of an array are views, and swapping views loses one of them.
        items[:] = [items[k] for k in order] if isinstance(items, list) else items[order]


@dataclass(frozen=True)
class VectorSimSiamConfig:
    """Widths of the two heads; each at least 1, checked in this order."""

    d_encoder: int = 64
    d_projector: int = 128
    d_predictor: int = 64
    d_out: int = 32

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise InvalidParameter(f"{name} must be an integer >= 1, got {value!r}")


def _read(x: Vectors, length: int) -> np.ndarray:
    """x as float32 [D] or [N, D], checked."""
    try:
        a = np.asarray(x.detach().float().cpu() if isinstance(x, Tensor) else x, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidParameter(f"expected numbers [D] or [N, D]: {error}") from None
    if a.ndim not in (1, 2) or (a.ndim == 2 and not len(a)):
        raise InvalidParameter(f"expected a vector [D] or a batch [N, D], got shape {a.shape}")
    if a.shape[-1] != length:
        raise DimensionMismatch(length, a.shape[-1])
    if not np.isfinite(a).all():
        raise InvalidParameter("the vector has NaN or infinity (in float32)")
    return a


def _like(x: Vectors, a: np.ndarray) -> Vectors:
    """a as the kind of container that x is."""
    if isinstance(x, Tensor):
        return torch.from_numpy(a).to(x.device)
    return a if isinstance(x, np.ndarray) else a.tolist()


def _norm(v: np.ndarray) -> np.ndarray:
    """Lengths of the rows [..., 1], never under the floor."""
    return np.maximum(np.sqrt((v * v).sum(-1, keepdims=True)), FLOOR)


class VectorSimSiam:
    """Projector and predictor with Kaiming-normal weights (std sqrt(2 / fan_in)) and zero biases.

    `weights` holds the eight arrays, [out, in] and [out], in the order in which they are drawn
    (biases draw nothing). Raises InvalidParameter and DimensionMismatch, both ValueErrors."""

    def __init__(self, config: VectorSimSiamConfig, rng: LcgRng):
        self.config = c = config
        shapes = {"proj_1": (c.d_projector, c.d_encoder), "proj_2": (c.d_out, c.d_projector),
                  "pred_1": (c.d_predictor, c.d_out), "pred_2": (c.d_out, c.d_predictor)}
        self.weights: dict[str, np.ndarray] = {}
        for name, (fan_out, fan_in) in shapes.items():
            scale = np.sqrt(np.float32(2) / np.float32(fan_in))
            self.weights[name.replace("_", "_w")] = rng.fill_normal((fan_out, fan_in)) * scale
            self.weights[name.replace("_", "_b")] = np.zeros(fan_out, np.float32)

    def __repr__(self) -> str:
        c, count = self.config, sum(w.size for w in self.weights.values())
        return (f"VectorSimSiam(project {c.d_encoder} -> {c.d_projector} -> {c.d_out}, "
                f"predict {c.d_out} -> {c.d_predictor} -> {c.d_out}, {count:,} parameters)")

    def copy(self) -> "VectorSimSiam":
        """An independent copy."""
        return copy.deepcopy(self)

    __copy__ = copy  # copy.copy must not share the weights either

    @property
    def d_out(self) -> int:
        """Length of z and p."""
        return self.config.d_out

    def _head(self, head: str, x: np.ndarray) -> tuple[np.ndarray, ...]:
        """Input, hidden layer before ReLU and output before the norm: what `_back` needs."""
        w = self.weights
        hidden = x @ w[f"{head}_w1"].T + w[f"{head}_b1"]
        return x, hidden, np.maximum(hidden, 0) @ w[f"{head}_w2"].T + w[f"{head}_b2"]

    def _apply(self, head: str, x: np.ndarray) -> np.ndarray:
        v = self._head(head, x)[-1]
        return v / _norm(v)

    def project(self, x: Vectors) -> Vectors:
        """Encoder outputs [D] or [N, D], D = d_encoder, to unit vectors z [..., d_out]."""
        return _like(x, self._apply("proj", _read(x, self.config.d_encoder)))

    def predict(self, z: Vectors) -> Vectors:
        """Projections z [..., d_out] to unit vectors p [..., d_out]."""
        return _like(z, self._apply("pred", _read(z, self.d_out)))

    def _views(self, *views: Vectors) -> list[np.ndarray]:
        a, b = arrays = [np.atleast_2d(_read(x, self.config.d_encoder)) for x in views]
        if len(a) != len(b):
            raise DimensionMismatch(len(a), len(b), "vectors in view 2")
        return arrays

    def loss(self, x1: Vectors, x2: Vectors) -> float:
        """-(p1.z2 + p2.z1) / 2 of two views [D], or its mean over [N, D]; from -1 to 1.

        SimSiam eq. 1-4. Stop-gradient does not change the value."""
        z1, z2 = (self._apply("proj", x) for x in self._views(x1, x2))
        p1, p2 = self._apply("pred", z1), self._apply("pred", z2)
        return float(-(p1 * z2 + p2 * z1).sum(1).mean() / 2)

    def set_identity_predictor(self) -> None:
        """Make predict(z) = z for unit z, so that loss(x, x) = -1: z = relu(z) - relu(-z).

        Raises InvalidParameter unless d_predictor = 2 d_out."""
        if self.config.d_predictor != 2 * self.d_out:
            raise InvalidParameter("the identity predictor needs d_predictor = 2 d_out = "
                                   f"{2 * self.d_out}, got {self.config.d_predictor}")
        w = np.concatenate([np.eye(self.d_out), -np.eye(self.d_out)]).astype(np.float32)
        self.weights |= {"pred_w1": w, "pred_b1": np.zeros(len(w), np.float32),
                         "pred_w2": w.T.copy(), "pred_b2": np.zeros(self.d_out, np.float32)}

    def _back(self, head: str, cache: tuple[np.ndarray, ...], g: np.ndarray,
              grads: dict[str, np.ndarray]) -> np.ndarray:
        """Add the head's weight gradients to grads, given g = dL/d(output); return dL/d(input)."""
        x, hidden, v = cache
        norm = _norm(v)
        u = v / norm
        # u = v/|v| only turns: the part of g along u is lost. Under the floor u is linear in v.
        g = np.where(norm > FLOOR, g - u * (u * g).sum(1, keepdims=True), g) / norm
        for i, below in (("2", np.maximum(hidden, 0)), ("1", x)):
            grads[f"{head}_w{i}"] += g.T @ below
            grads[f"{head}_b{i}"] += g.sum(0)
            g = g @ self.weights[f"{head}_w{i}"]
            g = g * (hidden > 0) if i == "2" else g  # through the ReLU
        return g

    def gradients(self, x1: Vectors, x2: Vectors, stop_gradient: bool = True) -> dict:
        """dL/dw for the eight weights (NumPy), and dL/dx as "x1", "x2" (kind and shape of x1, x2).

        With stop-gradient z1 learns through p1 only; without it L pulls at z2 in p1.z2 as well."""
        views = self._views(x1, x2)
        grads = {name: np.zeros_like(w) for name, w in self.weights.items()}
        z = [self._apply("proj", x) for x in views]
        p = [self._apply("pred", zi) for zi in z]
        half = -0.5 / len(z[0])  # L = -(p1.z2 + p2.z1) / 2, mean over N
        for i, x in enumerate((x1, x2)):
            g = self._back("pred", self._head("pred", z[i]), half * z[1 - i], grads)  # through p_i
            if not stop_gradient:
                g = g + half * p[1 - i]  # through z_i, the other view's target
            g = self._back("proj", self._head("proj", views[i]), g, grads)
            grads[f"x{i + 1}"] = _like(x, g[0] if np.ndim(x) == 1 else g)
        return grads

    def to_torch(self) -> "TorchHeads":
        """The same heads as an nn.Module with copies of the weights; draws no random numbers."""
        with torch.device("meta"):
            heads = TorchHeads(self.config)
        state = {_TORCH[name]: torch.tensor(w) for name, w in self.weights.items()}
        heads.load_state_dict(state, assign=True)
        return heads

    @classmethod
    def from_torch(cls, module: nn.Module) -> "VectorSimSiam":
        """Copy the weights of a module whose `projector` and `predictor` are Linear-ReLU-Linear.

        Raises InvalidParameter on other layers (BatchNorm has no place here) or missing biases,
        DimensionMismatch if the predictor does not lead from the projector's output to itself."""
        linears = []
        for name in ("projector", "predictor"):
            layers = list(getattr(module, name, None) or [])
            kinds = [type(layer).__name__ for layer in layers]
            if kinds != ["Linear", "ReLU", "Linear"] or any(m.bias is None for m in layers[::2]):
                raise InvalidParameter(f"{name} must be Linear, ReLU, Linear with bias, got {kinds}")
            linears += layers[::2]
        sizes = [(m.in_features, m.out_features) for m in linears]
        (d_encoder, d_projector), (_, d_out), (d_in, d_predictor), (_, d_back) = sizes
        for got in (d_in, d_back):
            if got != d_out:
                raise DimensionMismatch(d_out, got, "predictor's input and output")
        config = VectorSimSiamConfig(d_encoder, d_projector, d_predictor, d_out)
        model, state = cls(config, LcgRng(0)), module.state_dict()  # what was drawn is replaced
        model.weights = {name: state[key].detach().float().cpu().numpy().copy()
                         for name, key in _TORCH.items()}
        return model


class TorchHeads(nn.Module):
    """`VectorSimSiam` with autograd: the same heads, the same loss."""

    def __init__(self, config: VectorSimSiamConfig):
        super().__init__()
        c = config
        self.projector = nn.Sequential(nn.Linear(c.d_encoder, c.d_projector), nn.ReLU(),
                                       nn.Linear(c.d_projector, c.d_out))
        self.predictor = nn.Sequential(nn.Linear(c.d_out, c.d_predictor), nn.ReLU(),
                                       nn.Linear(c.d_predictor, c.d_out))

    def project(self, x: Tensor) -> Tensor:
        return F.normalize(self.projector(x), dim=-1, eps=FLOOR)

    def predict(self, z: Tensor) -> Tensor:
        return F.normalize(self.predictor(z), dim=-1, eps=FLOOR)

    def forward(self, x1: Tensor, x2: Tensor, stop_gradient: bool = True) -> Tensor:
        """The loss of views [D] or [N, D], a scalar."""
        z1, z2 = self.project(x1), self.project(x2)
        p1, p2 = self.predict(z1), self.predict(z2)
        if stop_gradient:
            z1, z2 = z1.detach(), z2.detach()
        return -((p1 * z2).sum(-1) + (p2 * z1).sum(-1)).mean() / 2
