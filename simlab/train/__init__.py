"""train."""

from .launch import flags_of, launch
from .optim import LARS, base_rate, build_optimizer, rate_factor, set_rate
from .resolve import resolve
from .run import CHECK_EVERY, fit, pretrain, settled, train_supervised, untrained
