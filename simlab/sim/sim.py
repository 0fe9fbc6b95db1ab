"""SIM (Self Identity Mapping): rebuild a block's input from its output, so it throws less away.

Cai et al., "Self Identity Mapping", arXiv 2509.18165 (rhoSIM, the sampled variant). In training
mode n positions ("tokens") of a block y = f(x) are sampled, both sides are projected, and

    beta * L(predictor(proj(pre_proj(y))), stop_gradient(proj(x)))

waits until it is taken: loss = task_loss + compute_loss_sim(model). A block that you write gets SIM
by two decorators, `init_proj` and `forward_with_sim_cache`; a finished model by `attach_sim`. Where
the published code gives a number this gives the same one, for equal weights and random state. Else:

- Layouts: [B, C, H, W], [B, N, C], and [B, C] as a 1 x 1 map. x is the first floating tensor among
  the inputs, y among the outputs. A block that changes x in place is compared with the changed x.
- Resolution: x is averaged onto y's grid by adaptive average pooling (2-D for maps, 1-D along the
  sequence for tokens; onto a finer grid values repeat), then paired with y.
- Few positions: where the published count is 0 (or 1, which norm_mse cannot standardise) two are
  taken; on a map of one position the batch takes the tokens' place, to be sampled in turn, and a
  batch of one raises for norm_mse. Two standardised tokens are little more than signs: finite, but
  with hardly a gradient. On small maps larger counts do more.
- Ratio 0 is SIM off: no parameters, no random draws, no loss. A count above N takes all N.
- Several passes before the loss is taken (two views): a block's loss is their mean. A pass counts
  until it is taken or a backward pass has gone through it; one under no_grad counts only where none
  with a graph waits. Activation checkpointing needs use_reentrant=False.
- A NaN stays in the sum; `check=True` and `LossSimTracker.report` name the block.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import functools
import math
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOSS_TYPES = ("cos", "kl", "smooth_l1", "mse", "norm_mse")
SAMPLING_TYPES = ("v0", "v1", "v2")
_FEW = 16  # so few tokens may differ so little that only equal rounding gives equal gradients
_OPTIONS = {  # name: (what is allowed, in words)
    "proj_type": (lambda v: v == "InvSS", "'InvSS'"),
    "token_sampling_ratio": (lambda v: 0 <= v < math.inf, "0 (off), a share, or a count above 1"),
    "channel_sampling_ratio": (lambda v: 0 <= v <= 1, "a share from 0 to 1"),
    "token_sampling_type": (lambda v: v in SAMPLING_TYPES, f"one of {SAMPLING_TYPES}"),
    "loss_type": (lambda v: v in LOSS_TYPES, f"one of {LOSS_TYPES}"),
    "beta": (math.isfinite, "a finite number"),
    "proj_hidden": (lambda v: v >= 1 and v == int(v), "an int above 0"),
    "proj_dim": (lambda v: v >= 1 and v == int(v), "an int above 0"),
}


# ---- on a block that you write -------------------------------------------------------------------


def init_proj(
    input_dim_name: str | int,
    output_dim_name: str | int | None = None,
    proj_type: str = "InvSS",
    token_sampling_ratio: float = 0.2,
    channel_sampling_ratio: float = 1.0,
    token_sampling_type: str = "v0",
    loss_type: str = "norm_mse",
    sim_cfg: Mapping[str, Any] | None = None,
    beta: float = 5e-3,
    proj_hidden: int = 256,
    proj_dim: int = 128,
) -> Callable:
    """Decorate a block's `__init__`: SIM's projections are created after it.

    Args:
        input_dim_name, output_dim_name: channels of x and y: an int, or the name of an attribute
            that `__init__` sets; no output dim means the input's.
        proj_type: only "InvSS" exists.
        token_sampling_ratio: share of positions in (0, 1], a count above 1, or 0: SIM off.
        channel_sampling_ratio: share in [0, 1] of x's and of y's channels: the first, at least one.
        token_sampling_type: "v0" one choice for the batch, "v1" one per sample, "v2" per sample the
            n out of 3n random positions where x's mean over channels is highest.
        loss_type: see `compute_sim_loss`.
        sim_cfg: overrides any of the options from proj_type to proj_dim ("loss_beta" is "beta").
        beta: weight of the loss.
        proj_hidden, proj_dim: widths of the projection.
    Raises:
        ValueError: an option's name or value is wrong. When a block is built AttributeError: it has
        no such attribute; TypeError: that is no positive int.
    """
    options = {k: v for k, v in locals().items() if k in _OPTIONS}
    options |= {"beta" if k == "loss_beta" else k: v for k, v in (sim_cfg or {}).items()}
    _check(options)

    def decorator(init_fn: Callable) -> Callable:
        @functools.wraps(init_fn)
        def wrapper(self: nn.Module, *args, **kwargs) -> None:
            init_fn(self, *args, **kwargs)
            output = input_dim_name if output_dim_name is None else output_dim_name
            _build(
                self,
                _read_dim(self, "input_dim_name", input_dim_name),
                _read_dim(self, "output_dim_name", output),
                options,
            )

        return wrapper

    return decorator


def forward_with_sim_cache() -> Callable:
    """Decorate a block's `forward`: in training mode its SIM loss is kept until it is taken.

    The output is untouched, and the block's own random draws come before SIM's.
    """

    def decorator(forward_fn: Callable) -> Callable:
        @functools.wraps(forward_fn)
        def wrapper(self: nn.Module, *args, **kwargs) -> Any:
            out = forward_fn(self, *args, **kwargs)
            if "_sim_calls" not in vars(self):
                raise AttributeError(
                    f"{type(self).__name__}.forward has @forward_with_sim_cache() "
                    "but its __init__ lacks @init_proj(...)"
                )
            if self.training:
                _observe(self, self, (args, kwargs), out)
            return out

        return wrapper

    return decorator


def _nearest(name: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _check(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if name not in _OPTIONS:
            raise ValueError(
                f"SIM has no option {name!r}, only {', '.join(_OPTIONS)}" + _nearest(name, _OPTIONS)
            )
        allowed, words = _OPTIONS[name]
        with contextlib.suppress(TypeError):
            if allowed(value):
                continue
        raise ValueError(f"SIM: {name}={value!r}, expected {words}")


def _read_dim(block: nn.Module, argument: str, dim: str | int) -> int:
    if isinstance(dim, str) and not hasattr(block, dim):
        ints = [k for k, v in vars(block).items() if isinstance(v, int)]
        raise AttributeError(
            f"init_proj: {argument}={dim!r}, but {type(block).__name__} has no "
            f"attribute {dim!r} after its __init__" + _nearest(dim, ints)
        )
    value = getattr(block, dim) if isinstance(dim, str) else dim
    if not isinstance(value, int) or value < 1:
        raise TypeError(f"init_proj: {argument}={dim!r} gives {value!r}, expected a positive int")
    return value


def _build(holder: nn.Module, dim_in: int, dim_out: int, options: dict[str, Any]) -> None:
    """Options and projections as attributes; the order of creation fixes the random numbers."""
    for name, value in options.items():
        setattr(holder, "loss_beta" if name == "beta" else name, value)
    holder._sim_calls = _Calls()
    holder.loss_sim = None  # the latest value, detached: for logging
    if holder.token_sampling_ratio == 0:
        return  # parameters that never get a gradient would stop DistributedDataParallel
    ratio, hidden, dim = holder.channel_sampling_ratio, holder.proj_hidden, holder.proj_dim
    holder.sim_dims = k_in, k_out = tuple(max(int(ratio * d), 1) for d in (dim_in, dim_out))
    holder.pre_proj = _Part() if k_in == k_out else _Part(nn.Linear(k_out, k_in, bias=False))
    holder.proj_x = holder.proj_y = _Part(
        nn.Linear(k_in, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, dim),
        nn.ReLU(inplace=True),
        nn.Linear(dim, dim),
    )
    holder.predictor = _Part(nn.Linear(dim, dim))


class _Part(nn.Sequential):
    """A part of SIM, which is no layer of the model: `attach_sim` passes it over."""


# ---- the loss ------------------------------------------------------------------------------------


def compute_sim_loss(x_sample: Tensor, y_sample: Tensor, loss_type: str = "mse") -> Tensor:
    """Distance of two projections [B, n, C], a scalar >= 0; from half precision in float32.

    "cos": 2 - 2 cos over channels; "kl": KL(softmax(y) || softmax(x)) over channels, summed, by B;
    "smooth_l1"; "mse"; "norm_mse": both standardised over their tokens (sample std + 1e-6), then
    the mean L2 norm over channels of the difference.
    """
    x, y = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (x_sample, y_sample))
    if loss_type == "cos":
        return (2 - 2 * F.cosine_similarity(x, y, dim=-1)).mean()
    if loss_type == "kl":
        return F.kl_div(F.log_softmax(x, dim=-1), F.softmax(y, dim=-1), reduction="batchmean")
    if loss_type in (simple := {"smooth_l1": F.smooth_l1_loss, "mse": F.mse_loss}):
        return simple[loss_type](x, y)
    if loss_type == "norm_mse" and x.shape[1] < _FEW:
        x, y = ((t - t.mean(1, keepdim=True)) / (t.std(1, keepdim=True) + 1e-6) for t in (x, y))
        return torch.linalg.vector_norm(x - y, dim=-1).mean()
    if loss_type == "norm_mse":
        return _NormMSE.apply(x, y)
    raise ValueError(
        f"loss_type={loss_type!r}: expected one of {LOSS_TYPES}" + _nearest(loss_type, LOSS_TYPES)
    )


class _NormMSE(torch.autograd.Function):
    """norm_mse by hand: autograd's way reads and writes [B, n, C] twice as often.

    With g = dL/dz, the gradient of z = (x - mean) / (std + 1e-6), over n tokens, is
    (g - mean(g)) / (std + 1e-6) - z sum(g z) / ((n - 1) std).
    """

    @staticmethod
    def forward(ctx, *samples: Tensor) -> Tensor:
        tiny, n = torch.finfo(samples[0].dtype).tiny, samples[0].shape[1]
        zs = [t - t.mean(dim=1, keepdim=True) for t in samples]  # [B, n, C]
        # By squares, [B, 1, C]: torch.std takes ten times as long.
        stds = [(z.square().sum(dim=1, keepdim=True) / (n - 1)).sqrt_() for z in zs]
        for z, std in zip(zs, stds, strict=True):
            z.mul_(1 / (std + 1e-6))
        g = zs[0] - zs[1]
        norm = torch.linalg.vector_norm(g, dim=-1, keepdim=True)  # [B, n, 1]
        g.mul_(1 / norm.clamp_min(tiny) / norm.numel())
        grads = [None, None]
        for i, sign in enumerate((1, -1)):
            if ctx.needs_input_grad[i]:
                along = (g * zs[i]).sum(dim=1, keepdim=True) / stds[i].clamp_min(tiny) / (n - 1)
                grads[i] = (g - g.mean(dim=1, keepdim=True)).mul_(sign / (stds[i] + 1e-6))
                grads[i].addcmul_(zs[i], along, value=-sign)
        ctx.save_for_backward(*grads)
        return norm.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(None if g is None else grad * g for g in ctx.saved_tensors)


# ---- a forward pass ------------------------------------------------------------------------------


class _Calls:
    """A block's losses that wait to be taken. Copies and pickles start empty, without a graph."""

    def __init__(self) -> None:
        self.pending: dict[int, Tensor] = {}  # by the number of the forward pass
        self.number = 0

    def __reduce__(self) -> tuple:
        return _Calls, ()

    def mean(self) -> Tensor:
        return torch.stack(list(self.pending.values())).mean()

    def add(self, loss: Tensor, y: Tensor) -> None:
        waiting = {k: p for k, p in self.pending.items() if p.requires_grad}
        self.number += 1
        if loss.requires_grad or not waiting:
            self.pending = {**waiting, self.number: loss}
        if y.grad_fn is not None:
            # So that losses never taken don't pile up. Weak: a cycle through the graph would leak.
            y.register_hook(functools.partial(_forget, weakref.ref(self), self.number))


def _forget(calls: weakref.ref, number: int, _grad: Tensor) -> None:
    if calls() is not None:
        calls().pending.pop(number, None)


@torch._disable_dynamo  # compiled code calls it as it is (torch.compiler.disable: 4 s of imports)
def _observe(block: nn.Module, holder: nn.Module, inputs: Any, output: Any) -> None:
    """Compute and keep the loss of one forward pass; `holder` is the block or its child `sim`."""
    if holder.token_sampling_ratio == 0:
        return
    label = f"SIM on {type(block).__name__}"
    x, y = _first_tensor(inputs), _first_tensor(output)
    if x is None or y is None:
        raise TypeError(f"{label}: no floating tensor in {'inputs' if x is None else 'outputs'}")
    tx, ty, batch = _sample(*_align(x.detach(), y, holder, label), holder, label)  # [B n, K]
    few, kind = len(ty) < _FEW * batch, ty.device.type
    full = few and torch.amp.is_autocast_available(kind)
    with torch.autocast(kind, enabled=False) if full else contextlib.nullcontext():
        if few:  # half precision's rounding may be all the difference between them
            tx, ty = (t.to(holder.predictor[0].weight.dtype) for t in (tx, ty))
        # y before x: in older torch autocast keeps weights as first cast, in no_grad without graph.
        zy = _predict(holder, ty, few).unflatten(0, (batch, -1))  # [B, n, proj_dim]
        with torch.no_grad():
            zx = holder.proj_x(tx).unflatten(0, (batch, -1))
    loss = compute_sim_loss(zy, zx, holder.loss_type) * holder.loss_beta
    if torch._C._current_graph_task_id() == -1:  # else a checkpoint repeats a forward in backward
        holder._sim_calls.add(loss, y)
        holder.loss_sim = holder._sim_calls.mean().detach()


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, Mapping):
        value = tuple(value.values())
    parts = value if isinstance(value, (tuple, list)) else ()
    return next((t for t in map(_first_tensor, parts) if t is not None), None)


def _align(x: Tensor, y: Tensor, holder: nn.Module, label: str) -> tuple[Tensor, Tensor]:
    """Choose the channels, bring x onto y's grid; both come back as views [B, K, N]."""
    x, y = (t[..., None, None] if t.dim() == 2 else t for t in (x, y))
    label = f"{label}: x {list(x.shape)}, y {list(y.shape)}"
    if not {x.dim(), y.dim()} <= {3, 4} or len(x) != len(y):
        raise ValueError(f"{label}: expected [B, C, H, W], [B, N, C] or [B, C], one B")
    x, y = (t.transpose(1, 2) if t.dim() == 3 else t for t in (x, y))  # [B, C, N] or [B, C, H, W]
    (k_in, k_out), ratio = holder.sim_dims, holder.channel_sampling_ratio
    c_x, c_y = x.shape[1], y.shape[1]
    if max(int(ratio * c_x), 1) != k_in or c_y < k_out or (ratio == 1 and c_y > k_out):
        raise ValueError(
            f"{label}: {c_x} and {c_y} channels, but SIM was built to take {k_in} and "
            f"{k_out}: give the true dims (attach_sim: sample_input=)"
        )
    # Only where some are left out: the backward pass of narrow copies the whole map.
    x, y = (t if t.shape[1] == k else t.narrow(1, 0, k) for t, k in ((x, k_in), (y, k_out)))
    if x.dim() == y.dim() and x.shape[2:] != y.shape[2:]:
        pool = F.adaptive_avg_pool2d if x.dim() == 4 else F.adaptive_avg_pool1d
        x = pool(x, y.shape[2:])
    x, y = x.flatten(2), y.flatten(2)
    if x.shape[2] != y.shape[2]:
        raise ValueError(f"{label}: a map and tokens can be paired only if positions are as many")
    return x, y


def _sample(x: Tensor, y: Tensor, holder: nn.Module, label: str) -> tuple[Tensor, Tensor, int]:
    """The same n tokens of x and of y, [B, K, N] -> [B n, K], and B."""
    ratio, needed = holder.token_sampling_ratio, 2 if holder.loss_type == "norm_mse" else 1

    def count(total: int) -> int:
        return min(int(ratio * total if ratio <= 1 else ratio), total)

    n = count(x.shape[2])
    if n < needed:  # the published loss is NaN here
        if x.shape[2] == 1:
            x, y = x.permute(2, 1, 0), y.permute(2, 1, 0)  # [B, K, 1] -> [1, K, B]
            n = count(x.shape[2])
        n = min(max(n, 2), x.shape[2])
        if n < needed:
            raise ValueError(
                f"{label}: one position and a batch of one, but norm_mse standardises "
                "over at least two tokens: use larger batches (drop_last=True), "
                "larger maps or another loss_type"
            )
    batch, _, total = x.shape
    if holder.token_sampling_type == "v0":
        ids = torch.randperm(total, device=x.device)[None, :n]
    else:
        ids = torch.argsort(torch.rand(batch, total, device=x.device), dim=1)  # [B, N]
        if holder.token_sampling_type == "v2":
            ids = ids[:, : 3 * n]
            ids = ids.gather(1, x.mean(1).gather(1, ids).topk(n, dim=1).indices)
        ids = ids[:, :n]
    if n >= _FEW:
        ids = ids.sort(dim=1).values  # no loss minds the order; memory does, by a factor of three
    return _pick(x, ids.expand(batch, n)), _pick(y, ids.expand(batch, n)), batch


def _pick(t: Tensor, ids: Tensor) -> Tensor:
    """Positions ids [B, n] of [B, K, N] -> [B n, K]: only they are read and rearranged."""
    if t.stride(1) == 1:  # tokens, channels-last maps
        return t.transpose(1, 2).gather(1, ids[..., None].expand(-1, -1, t.shape[1])).flatten(0, 1)
    return t.gather(2, ids[:, None].expand(-1, t.shape[1], -1)).transpose(1, 2).flatten(0, 1)


def _predict(holder: nn.Module, ty: Tensor, few: bool) -> Tensor:
    """predictor(proj_y(pre_proj(y))) of tokens [B n, K]."""
    ty = holder.pre_proj(ty)
    if few:
        return holder.predictor(holder.proj_y(ty))
    # The last layer of proj_y and the predictor are linear: as one they cost a fifth less.
    last, head = holder.proj_y[-1], holder.predictor[0]
    return F.linear(
        holder.proj_y[:-1](ty),
        head.weight @ last.weight,
        F.linear(last.bias, head.weight, head.bias),
    )


# ---- taking the loss -----------------------------------------------------------------------------


def compute_loss_sim(module: nn.Module, check: bool = False) -> Tensor:
    """Take the SIM loss: the mean over the blocks of `module`, itself included; a scalar.

    A block in eval mode counts as 0; one that has not run since the last time is left out; 0 where
    none has ever run. Taking lets go of the graph: a second take before the next forward pass
    gives the number alone, and warns.
    Args:
        check: raise FloatingPointError naming the blocks whose loss is not finite (this waits for
            the device); else a NaN goes into the result.
    Raises:
        ValueError: no block of `module` has SIM.
    """
    return LossSimTracker(module).compute_loss_sim(check)


class LossSimTracker:
    """`compute_loss_sim` with the list of blocks found once, when it is made."""

    def __init__(self, module: nn.Module) -> None:
        # A block's name, and what holds its loss: the block if decorated, else its child `sim`.
        self.holders = [
            (name.removesuffix("sim").removesuffix(".") if isinstance(m, SIM) else name, m)
            for name, m in module.named_modules()
            if "_sim_calls" in vars(m)
        ]
        if not self.holders:
            raise ValueError(
                f"no block of this {type(module).__name__} has SIM: decorate one with "
                "init_proj and forward_with_sim_cache, or call attach_sim"
            )

    def compute_loss_sim(self, check: bool = False) -> Tensor:
        device = next((p.device for _, h in self.holders for p in h.parameters()), None)
        holders = [(name, h) for name, h in self.holders if h.token_sampling_ratio != 0]
        losses = {name: h._sim_calls.mean() for name, h in holders if h._sim_calls.pending}
        in_eval = sum(name not in losses and not h.training for name, h in holders)
        if not losses and not in_eval:
            losses = {name: h.loss_sim for name, h in holders if h.loss_sim is not None}
            if losses:
                warnings.warn(
                    "this SIM loss was taken before, or a backward pass has gone through "
                    "its blocks: here is its number, without a graph",
                    stacklevel=2,
                )
        for _, h in holders:
            h._sim_calls.pending = {}
        if check and (bad := {k: v.item() for k, v in losses.items() if not torch.isfinite(v)}):
            raise FloatingPointError(f"the SIM loss is not finite in these blocks: {bad}")
        total = sum((loss.to(device) for loss in losses.values()), torch.zeros((), device=device))
        return total / max(len(losses) + in_eval, 1)

    def report(self) -> dict[str, float]:
        """The latest loss (times beta) of each block that has run, by name ("" is the root).

        For logging: takes nothing, waits for the device once. A NaN shows as nan.
        """
        ran = {name: h.loss_sim for name, h in self.holders if h.loss_sim is not None}
        device = next((v.device for v in ran.values()), None)
        values = torch.stack([v.to(device) for v in ran.values()]).tolist() if ran else []
        return dict(zip(ran, values, strict=True))


# ---- on a finished model -------------------------------------------------------------------------


class SIM(nn.Module):
    """What `attach_sim` hangs on a block. As a layer it is the identity: a Sequential runs it."""

    def __init__(self, dim_in: int, dim_out: int, options: Mapping[str, Any]) -> None:
        init_proj(dim_in, dim_out, sim_cfg=options)(nn.Module.__init__)(self)

    def forward(self, x: Any, *args, **kwargs) -> Any:
        return x


def _hook(block: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
    """Forward hook of attached blocks; a function of the module, so that it can be pickled."""
    if block.training:
        _observe(block, block.sim, (args, kwargs), output)


def attach_sim(
    model: nn.Module,
    layers: Any,
    sample_input: Any = None,
    sim_cfg: Mapping[str, Any] | None = None,
    **options,
) -> list[str]:
    """Put SIM on blocks of a finished model without touching its source; returns their names.

    The parameters exist at once, as `<block>.sim`, on the block's device: attach before optimizer
    and DistributedDataParallel are made. If anything is wrong nothing is attached.

    >>> attach_sim(torchvision.models.resnet18(), "layer?.*")

    Args:
        layers: one or a list of: a module's name ("" is the root), a glob (* ends at a dot), a type
            or its name, a predicate (name, module) -> bool.
        sample_input: an input of the model (a tuple: its positional arguments), run once in eval
            mode to see the blocks' dims. Without it they are read off the modules: in_channels,
            in_features, ... of the block or its first layer, out_channels, ... of its last.
        sim_cfg, options: those of `init_proj` from proj_type to proj_dim.
    Raises:
        ValueError: an entry of `layers` matches nothing, an option is wrong, dims cannot be seen, a
        block has SIM already or cannot have it.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError(
            "attach_sim: attach before DistributedDataParallel is made, which would "
            "not see the new parameters"
        )
    blocks = _match(model, layers)
    for name, block in blocks.items():
        if hasattr(block, "sim") or "_sim_calls" in vars(block):
            raise ValueError(f"attach_sim: {name!r} has SIM, or an attribute `sim`, already")
        if isinstance(block, (nn.ModuleList, nn.ModuleDict)):
            raise ValueError(f"attach_sim: {name!r} is a {type(block).__name__}: name its children")
    dims = (
        {name: _dims_of_modules(name, block) for name, block in blocks.items()}
        if sample_input is None
        else _dims_of_run(model, blocks, sample_input)
    )
    sims = {name: SIM(*dims[name], {**options, **(sim_cfg or {})}) for name in blocks}
    for name, block in blocks.items():
        floats = (p for m in (block, model) for p in m.parameters() if p.is_floating_point())
        block.sim = sims[name].to(next(floats, torch.empty(0))).train(block.training)
        block.sim.handle = block.register_forward_hook(_hook, with_kwargs=True)
    return list(blocks)


def detach_sim(model: nn.Module) -> list[str]:
    """Take off what `attach_sim` put on: outputs and state_dict are as before. Returns the names.

    Raises:
        ValueError: nothing was attached (a decorated block is switched off by ratio 0).
    """
    blocks = {
        name: block
        for name, block in model.named_modules()
        if isinstance(block._modules.get("sim"), SIM)
    }
    if not blocks:
        raise ValueError(
            f"detach_sim: nothing is attached to this {type(model).__name__} "
            "(decorated blocks are switched off by token_sampling_ratio=0)"
        )
    for block in blocks.values():
        block.sim.handle.remove()
        del block.sim
    return list(blocks)


def _match(model: nn.Module, layers: Any) -> dict[str, nn.Module]:
    """The modules that `layers` names, in the model's order, SIM's own left out."""
    own = {
        id(m) for part in model.modules() if isinstance(part, (SIM, _Part)) for m in part.modules()
    }
    modules = {name: m for name, m in model.named_modules() if id(m) not in own}
    items = layers if isinstance(layers, (list, tuple, set)) else [layers]
    chosen: set[str] = set()
    for item in items:
        found = {name for name, m in modules.items() if _fits(item, name, m)}
        chosen |= found
        if not found:
            types = sorted({type(m).__name__ for m in modules.values()})
            blocks = [name for name, m in modules.items() if name and any(m.children())]
            label = getattr(item, "__name__", item)
            raise ValueError(
                f"attach_sim: {label!r} matches nothing in this {type(model).__name__} of "
                + ", ".join(types)
                + (
                    _nearest(label, [*blocks, *modules, *types])
                    or f"; its blocks are {', '.join(blocks[:12])}"
                )
            )
    if not chosen:
        raise ValueError("attach_sim: layers is empty")
    return {name: m for name, m in modules.items() if name in chosen}


def _fits(item: Any, name: str, module: nn.Module) -> bool:
    if isinstance(item, type):
        return isinstance(module, item)
    if isinstance(item, str):  # * and ? don't match dots: as many parts on either side
        return type(module).__name__ == item or (
            name.count(".") == item.count(".")
            and all(map(fnmatch.fnmatchcase, name.split("."), item.split(".")))
        )
    if callable(item):
        return bool(item(name, module))
    raise ValueError(
        f"attach_sim: layers has {item!r}, expected a name, a glob, a type or a "
        "predicate (name, module) -> bool"
    )


def _dims_of_modules(name: str, block: nn.Module) -> list[int]:
    """Dims of the block itself, else of its first and last layer in order of registration."""
    parts, dims = list(block.modules()), []
    for side, modules in (("in", parts), ("out", [block, *reversed(parts)])):
        keys = (
            f"{side}_channels",
            f"{side}_features",
            "num_features",
            "num_channels",
            "normalized_shape",
            "embed_dim",
            "hidden_dim",
        )
        values = [getattr(module, key, None) for module in modules for key in keys]
        values = [v[-1] if isinstance(v, tuple) and v else v for v in values]
        dims += [v for v in values if isinstance(v, int) and v > 0][:1]
    if len(dims) < 2:
        raise ValueError(
            f"attach_sim: no dims can be read off {name!r} ({type(block).__name__}): "
            "give sample_input="
        )
    return dims


def _dims_of_run(
    model: nn.Module, blocks: dict[str, nn.Module], sample_input: Any
) -> dict[str, list[int]]:
    """Dims of the blocks' x and y in one run in eval mode."""
    seen: dict[nn.Module, list] = {}

    def watch(block: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        tensors = [_first_tensor((args, kwargs)), _first_tensor(output)]
        seen[block] = [t.shape[1 if t.dim() == 4 else -1] for t in tensors if t is not None]

    with torch.no_grad(), contextlib.ExitStack() as afterwards:
        for block in blocks.values():
            afterwards.enter_context(block.register_forward_hook(watch, with_kwargs=True))
        for module in model.modules():
            afterwards.callback(setattr, module, "training", module.training)
        model.eval()(*sample_input if isinstance(sample_input, tuple) else (sample_input,))
    if missing := [name for name, block in blocks.items() if len(seen.get(block, ())) < 2]:
        raise ValueError(f"attach_sim: no floating tensors of sample_input's run in {missing}")
    return {name: seen[block] for name, block in blocks.items()}
