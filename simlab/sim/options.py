"""The options of SIM: `SimOptions`, one frozen dataclass for decorated and for attached blocks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from ..layers import nearest

ProjectionType = Literal["InvSS"]
SamplingType = Literal["v0", "v1", "v2"]
LossType = Literal["cos", "kl", "smooth_l1", "mse", "norm_mse"]

PROJECTION_TYPES: tuple[str, ...] = get_args(ProjectionType)
SAMPLING_TYPES: tuple[str, ...] = get_args(SamplingType)
LOSS_TYPES: tuple[str, ...] = get_args(LossType)


@dataclass(frozen=True, kw_only=True)
class SimOptions:
    """Options of SIM, checked when they are made.

    The names and defaults are those of the published code (`init_proj` in SIM-pytorch); `beta`,
    `proj_hidden` and `proj_dim` are constants there.

    Attributes:
        proj_type: Kind of projection. Only "InvSS" exists.
        token_sampling_ratio: Share of a block's positions ("tokens") to compare, in (0, 1]; above 1
            their number; 0 switches SIM off: no parameters, no random draws, no loss. Sampling is
            what the paper calls rhoSIM.
        channel_sampling_ratio: Share in [0, 1] of the channels of x and of y to compare: the first
            ones, at least one.
        token_sampling_type: How tokens are sampled: "v0" one draw for the batch, "v1" one for each
            sample, "v2" for each sample those with the highest input; `sampling.draw_positions`.
        loss_type: Distance between prediction and target, see `loss.compute_sim_loss`.
        beta: Weight of the loss; published as the attribute `loss_beta` of every block, 5e-3.
        proj_hidden: Width of the projection's first hidden layer; published 256.
        proj_dim: Width of its second hidden layer and of its output; published 128.

    Raises:
        ValueError: If a value is not allowed. The message names it and what was expected.
    """

    proj_type: ProjectionType = "InvSS"
    token_sampling_ratio: float = 0.2
    channel_sampling_ratio: float = 1.0
    token_sampling_type: SamplingType = "v0"
    loss_type: LossType = "norm_mse"
    beta: float = 5e-3
    proj_hidden: int = 256
    proj_dim: int = 128

    def __post_init__(self) -> None:
        _check_choice("proj_type", self.proj_type, PROJECTION_TYPES)
        _check_choice("token_sampling_type", self.token_sampling_type, SAMPLING_TYPES)
        _check_choice("loss_type", self.loss_type, LOSS_TYPES)
        _check_number(
            "token_sampling_ratio",
            self.token_sampling_ratio,
            "0 (off), a share, or a count above 1",
            at_least=0,
        )
        _check_number(
            "channel_sampling_ratio",
            self.channel_sampling_ratio,
            "a share from 0 to 1",
            at_least=0,
            at_most=1,
        )
        _check_number("beta", self.beta, "a finite number")
        _check_width("proj_hidden", self.proj_hidden)
        _check_width("proj_dim", self.proj_dim)

    def override(self, sim_cfg: SimOptions | Mapping[str, Any] | None) -> SimOptions:
        """Replace the options that `sim_cfg` names.

        Args:
            sim_cfg: Options by name; the published name "loss_beta" stands for "beta". Or complete
                `SimOptions`, beside which no other options may be given.

        Returns:
            The options, checked.

        Raises:
            ValueError: If a name or value is wrong, or if options stand beside `SimOptions`.
        """
        names = [field.name for field in dataclasses.fields(self)]
        if isinstance(sim_cfg, SimOptions):
            defaults = SimOptions()
            beside = [name for name in names if getattr(self, name) != getattr(defaults, name)]
            if beside:
                raise ValueError(
                    "SIM: sim_cfg is a SimOptions, expected no options beside it but got "
                    + ", ".join(beside)
                )
            return sim_cfg
        changes = {}
        for name, value in (sim_cfg or {}).items():
            field = "beta" if name == "loss_beta" else name
            if field not in names:
                raise ValueError(
                    f"SIM has no option {name!r}, expected one of {', '.join(names)}"
                    + nearest(name, names)
                )
            changes[field] = value
        return dataclasses.replace(self, **changes)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"SIM: {name}={value!r}, expected one of {choices}" + nearest(value, choices)
        )


def _check_number(
    name: str,
    value: Any,
    expected: str,
    at_least: float = -math.inf,
    at_most: float = math.inf,
) -> None:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    # the comparisons also refuse NaN
    if not (is_number and -math.inf < value < math.inf and at_least <= value <= at_most):
        raise ValueError(f"SIM: {name}={value!r}, expected {expected}")


def _check_width(name: str, value: object) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"SIM: {name}={value!r}, expected an int above 0")
