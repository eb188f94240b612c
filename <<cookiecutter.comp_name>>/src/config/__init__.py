"""Every knob of the project: one validated tree, its defaults and why they are what they are.

A config is a YAML file in `configs/`; `base:` names the file it changes; `key=value` on the command line
changes it once more. OmegaConf reads and merges, pydantic checks types, bounds and unknown keys. Nothing else
of ours is imported here, and nothing heavy, so that a typo is answered at once.

`data.py` the competition, its tables and folds · `model.py` the network · `pixels.py` augmentation and
mixing · `losses.py`, `optim.py`, `train.py` training · `consistency.py` a mean teacher · `after.py` what
comes of trained models · `pseudo.py` pseudo-labels · `kaggle.py` where it goes ·
`effects.py` which key needs what · `tree.py` all together.
"""

from src.config.after import (
    Distill,
    Expansion,
    Inference,
    Rerank,
    Runtime,
    Stack,
    Submit,
    Tracking,
)
from src.config.consistency import Consistency
from src.config.data import Competition, CrossValidation, Data, Task
from src.config.kaggle import Kaggle
from src.config.losses import EXCLUSIVE, LOSSES, MARGINS, Losses, Margin
from src.config.model import Model
from src.config.optim import Optim
from src.config.pixels import Augment, Mixing
from src.config.pseudo import Pseudo
from src.config.section import NoEffect, Section, UserError
from src.config.train import EarlyStopping, Ema, Swa, Train, snapshot_names, with_epochs
from src.config.tree import Config

__all__ = [
    "EXCLUSIVE",
    "LOSSES",
    "MARGINS",
    "Augment",
    "Competition",
    "Config",
    "Consistency",
    "CrossValidation",
    "Data",
    "Distill",
    "EarlyStopping",
    "Ema",
    "Expansion",
    "Inference",
    "Kaggle",
    "Losses",
    "Margin",
    "Mixing",
    "Model",
    "NoEffect",
    "Optim",
    "Pseudo",
    "Rerank",
    "Runtime",
    "Section",
    "Stack",
    "Submit",
    "Swa",
    "Task",
    "Tracking",
    "Train",
    "UserError",
    "snapshot_names",
    "with_epochs",
]
