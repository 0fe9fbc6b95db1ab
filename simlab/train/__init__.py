"""Training: `loop.fit` is the loop, on one screen; read it first.

run         pretrain, train_supervised: from a configuration to a finished run
loop        views, loss, backward, step, after_step, log, checkpoint
loading     the dataset, once for all processes
views       from the order of an epoch to the views of a batch; partners: two images as two views
seeds       where the random numbers of an epoch come from
optim       optimizers and learning rates
monitor     losses, times, collapse, kNN accuracy; progress: the bar and the log
resolve     the choices that a configuration leaves open
with_sim    SIM on an encoder's blocks
modules     a stored run's method module, and what each term of its loss does
initial     fine-tuning: the run that training starts from
custom      what code of the user's is identified by
callbacks   what looks on, such as a logger; tensorboard: one that writes event files
launch      several processes from a notebook
"""

from .callbacks import Callback
from .launch import launch
from .modules import load_module, loss_terms
from .optim import build_optimizer
from .resolve import resolve
from .run import build_task, pretrain, settled, train_supervised, untrained
from .tensorboard import TensorBoard

__all__ = [
    "Callback",
    "TensorBoard",
    "build_optimizer",
    "build_task",
    "launch",
    "load_module",
    "loss_terms",
    "pretrain",
    "resolve",
    "settled",
    "train_supervised",
    "untrained",
]
