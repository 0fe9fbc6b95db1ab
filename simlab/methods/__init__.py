"""methods."""

from .simclr import SimCLR, SimCLRLoss, nt_xent
from .simsiam import SimSiam, SimSiamLoss, View, negative_cosine, projector
from .tasks import AT_ONCE, MONITOR_IMAGES, Pretraining, Supervised, refuse_nan
