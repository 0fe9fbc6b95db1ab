"""What a training run is made of; nothing here imports torch.

- `training`: the configurations of pretraining and of supervised training; read it first.
- `recipes`: complete published configurations.
- `fields`: types, bounds and descriptions of a dataclass's fields, for configurations and methods.
"""

from .fields import (
    AtLeast,
    Kind,
    LessThan,
    MoreThan,
    check_fields,
    descriptions,
    documented,
    kinds,
)
from .recipes import RECIPES
from .training import (
    NOT_IDENTITY,
    Config,
    PretrainConfig,
    SupervisedConfig,
    TrainConfig,
    make_config,
    milestones,
)

__all__ = [
    "NOT_IDENTITY",
    "RECIPES",
    "AtLeast",
    "Config",
    "Kind",
    "LessThan",
    "MoreThan",
    "PretrainConfig",
    "SupervisedConfig",
    "TrainConfig",
    "check_fields",
    "descriptions",
    "documented",
    "kinds",
    "make_config",
    "milestones",
]
