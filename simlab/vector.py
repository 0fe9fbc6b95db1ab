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

FLOOR = 1e-12  # least norm to divide by
_TORCH = {
    f"{ours}_{kind[0]}{i + 1}": f"{theirs}.{2 * i}.{kind}"  # proj_w1: projector.0.weight
    for ours, theirs in (("proj", "projector"), ("pred", "predictor"))
    for i in (0, 1)
    for kind in ("weight", "bias")
}
Vectors = Tensor | np.ndarray | list


class InvalidParameter(ValueError):
    """A value that cannot be used."""


class DimensionMismatch(ValueError):
    """A wrong length; `expected` and `got` hold the two numbers."""

    def __init__(self, expected: int, got: int, what: str = "vector length"):
        super().__init__(f"{what}: expected {expected}, got {got}")
        self.expected, self.got = expected, got


def _whole(name: str, value: int, least: int) -> int:
    """The value as an int, or InvalidParameter."""
    if not isinstance(value, (int, np.integer)) or value < least:
        raise InvalidParameter(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


class LcgRng:
    """A 64-bit linear congruential generator (Knuth's MMIX constants) with float32 normals.

    The same numbers on every machine and in every language; for teaching, not for statistics."""

    def __init__(self, seed: int):
        self.state = (_whole("seed", seed, -(2**63)) + 1) % 2**64

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
        return self.next_u32() % _whole("n", n, 1)

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
            _whole(name, value, 1)


def _read(x: Vectors, length: int) -> np.ndarray:
    """x as float32 [D] or [N, D], checked."""
    a = np.asarray(x.detach().float().cpu() if isinstance(x, Tensor) else x, np.float32)
    if a.ndim not in (1, 2) or not len(np.atleast_2d(a)) or not np.isfinite(a).all():
        raise InvalidParameter(
            "expected a vector [D] or a batch [N, D] of finite numbers, got "
            f"shape {a.shape}, {np.isfinite(a).sum()} finite"
        )
    if a.shape[-1] != length:
        raise DimensionMismatch(length, a.shape[-1])
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
        self.weights: dict[str, np.ndarray] = {}
        for layer, fan_in, fan_out in (
            ("proj_{}1", c.d_encoder, c.d_projector),
            ("proj_{}2", c.d_projector, c.d_out),
            ("pred_{}1", c.d_out, c.d_predictor),
            ("pred_{}2", c.d_predictor, c.d_out),
        ):
            scale = np.sqrt(np.float32(2) / np.float32(fan_in))
            self.weights[layer.format("w")] = rng.fill_normal((fan_out, fan_in)) * scale
            self.weights[layer.format("b")] = np.zeros(fan_out, np.float32)

    def __repr__(self) -> str:
        count = sum(w.size for w in self.weights.values())
        return f"VectorSimSiam({self.config}, {count:,} parameters)"

    def copy(self) -> "VectorSimSiam":
        """An independent copy."""
        return copy.deepcopy(self)

    __copy__ = copy  # copy.copy must not share the weights either

    @property
    def d_out(self) -> int:
        """Length of z and p."""
        return self.config.d_out

    def _head(self, head: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hidden layer before ReLU [..., hidden], and output before the norm [..., d_out]."""
        w1, b1, w2, b2 = (self.weights[f"{head}_{name}"] for name in ("w1", "b1", "w2", "b2"))
        hidden = x @ w1.T + b1
        return hidden, np.maximum(hidden, 0) @ w2.T + b2

    def _apply(self, head: str, x: np.ndarray) -> np.ndarray:
        v = self._head(head, x)[1]
        return v / _norm(v)

    def project(self, x: Vectors) -> Vectors:
        """Encoder outputs [D] or [N, D], D = d_encoder, to unit vectors z [..., d_out]."""
        return _like(x, self._apply("proj", _read(x, self.config.d_encoder)))

    def predict(self, z: Vectors) -> Vectors:
        """Projections z [..., d_out] to unit vectors p [..., d_out]."""
        return _like(z, self._apply("pred", _read(z, self.d_out)))

    def _both(self, x1: Vectors, x2: Vectors) -> np.ndarray:
        """The two views one below the other: [2N, D]; row i's other view is i + N, mod 2N."""
        a, b = (np.atleast_2d(_read(x, self.config.d_encoder)) for x in (x1, x2))
        if len(a) != len(b):
            raise DimensionMismatch(len(a), len(b), "vectors in view 2")
        return np.concatenate([a, b])

    def loss(self, x1: Vectors, x2: Vectors) -> float:
        """-(p1.z2 + p2.z1) / 2 of two views [D], or its mean over [N, D]; from -1 to 1.

        SimSiam eq. 1-4. Stop-gradient does not change the value."""
        z = self._apply("proj", self._both(x1, x2))  # [2N, d_out]
        p = self._apply("pred", z)
        return float(-(p * np.roll(z, len(z) // 2, 0)).sum(1).mean())

    def set_identity_predictor(self) -> None:
        """Make predict(z) = z for unit z, so that loss(x, x) = -1: z = relu(z) - relu(-z).

        Raises InvalidParameter unless d_predictor = 2 d_out."""
        if self.config.d_predictor != 2 * self.d_out:
            raise InvalidParameter(
                "the identity predictor needs d_predictor = 2 d_out = "
                f"{2 * self.d_out}, got {self.config.d_predictor}"
            )
        eye, zeros = np.eye(self.d_out, dtype=np.float32), np.zeros(self.d_out, np.float32)
        self.weights |= {
            "pred_w1": np.vstack([eye, -eye]),
            "pred_b1": np.hstack([zeros, zeros]),
            "pred_w2": np.hstack([eye, -eye]),
            "pred_b2": zeros,
        }

    def _back(self, head: str, x: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, dict]:
        """From g = dL/d(output) of the head at x to dL/dx and the gradients of its four weights."""
        hidden, v = self._head(head, x)
        norm, grads = _norm(v), {}
        u = v / norm
        # u = v/|v| only turns: the part of g along u is lost. Under the floor u is linear in v.
        g = np.where(norm > FLOOR, g - u * (u * g).sum(1, keepdims=True), g) / norm
        for i, below in ((2, np.maximum(hidden, 0)), (1, x)):
            grads |= {f"{head}_w{i}": g.T @ below, f"{head}_b{i}": g.sum(0)}
            g = g @ self.weights[f"{head}_w{i}"]
            g = g * (hidden > 0) if i == 2 else g  # through the ReLU
        return g, grads

    def gradients(self, x1: Vectors, x2: Vectors, stop_gradient: bool = True) -> dict:
        """dL/dw for the eight weights (NumPy), and dL/dx as "x1", "x2" (kind and shape of x1, x2).

        With stop-gradient z1 learns through p1 only; without it L pulls at z2 in p1.z2 as well."""
        x = self._both(x1, x2)  # [2N, D]
        z = self._apply("proj", x)
        g, grads = self._back("pred", z, -np.roll(z, len(x) // 2, 0) / len(x))  # through p
        if not stop_gradient:  # through z, the other view's target
            g = g - np.roll(self._apply("pred", z), len(x) // 2, 0) / len(x)
        g, below = self._back("proj", x, g)
        grads |= below
        for name, view, own in zip(("x1", "x2"), (x1, x2), np.split(g, 2), strict=True):
            grads[name] = _like(view, own[0] if np.ndim(view) == 1 else own)
        return grads

    def to_torch(self) -> "TorchHeads":
        """The same heads as an nn.Module with copies of the weights; draws no random numbers."""
        with torch.device("meta"):
            heads = TorchHeads(self.config)
        state = {theirs: torch.tensor(self.weights[name]) for name, theirs in _TORCH.items()}
        heads.load_state_dict(state, assign=True)
        return heads

    @classmethod
    def from_torch(cls, module: nn.Module) -> "VectorSimSiam":
        """Copy the weights of a module whose `projector` and `predictor` are Linear-ReLU-Linear.

        Raises InvalidParameter on other layers (BatchNorm has no place here), missing biases, or a
        predictor that does not lead from the projector's output to itself."""
        first, last, hidden = module.projector[0], module.projector[-1], module.predictor[0]
        model = cls(
            VectorSimSiamConfig(
                first.in_features, first.out_features, hidden.out_features, last.out_features
            ),
            LcgRng(0),
        )
        for name, expected in model.to_torch().named_children():
            if repr(got := getattr(module, name)) != repr(expected):
                raise InvalidParameter(f"{name}: expected {expected}, got {got}")
        model.weights = {
            name: module.get_parameter(theirs).detach().float().cpu().numpy().copy()
            for name, theirs in _TORCH.items()
        }  # instead of what was drawn
        return model


class TorchHeads(nn.Module):
    """`VectorSimSiam` with autograd: the same heads, the same loss."""

    def __init__(self, config: VectorSimSiamConfig):
        super().__init__()
        c = config
        self.projector, self.predictor = (
            nn.Sequential(nn.Linear(d_in, hidden), nn.ReLU(), nn.Linear(hidden, c.d_out))
            for d_in, hidden in ((c.d_encoder, c.d_projector), (c.d_out, c.d_predictor))
        )

    def project(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.projector(x), dim=-1, eps=FLOOR)

    def predict(self, z: Tensor) -> Tensor:
        return nn.functional.normalize(self.predictor(z), dim=-1, eps=FLOOR)

    def forward(self, x1: Tensor, x2: Tensor, stop_gradient: bool = True) -> Tensor:
        """The loss of views [D] or [N, D], a scalar."""
        z = self.project(torch.stack([x1, x2]))  # [2, (N,) d_out]
        target = z.detach() if stop_gradient else z
        return -(self.predict(z) * target.flip(0)).sum(-1).mean()
