"""simlab: learn, run and dissect self-supervised learning.

The method, in reading order: data, augment, models, simsiam, train, evaluate. What can be lifted
out and used alone: sim (the SIM regulariser), similarity (CKA and its kin), vector (SimSiam of
plain vectors).
"""

__version__ = "0.1.0"
