"""Every config key of the project: one validated tree, with the default of each key and the reason for it.

A config is a YAML file in `configs/`; `base:` names the file it changes; `key=value` on the command line
overrides it once more. OmegaConf reads and merges, pydantic checks types, bounds and unknown keys. Nothing
else of ours is imported here, and nothing heavy, so that a typo is reported at once. `make config
KEY=train.ema` prints what a key means; `docs/config.md` lists them all.

`data.py` the competition, its tables and folds · `model.py` the network · `pixels.py` augmentation and mixing
· `losses.py`, `optim.py`, `train.py` training · `distill.py` teachers · `consistency.py` mean teacher ·
`inference.py` prediction · `pseudo.py` pseudo-labels · `stack.py` stacking · `runtime.py` submission,
tracking, machine · `kaggle.py` Kaggle · `effects.py` which key needs what · `reference.py` the reference page
· `tree.py` all together."""

from src.config.consistency import Consistency
from src.config.data import Competition, CrossValidation, Data, Task
from src.config.distill import Distill
from src.config.inference import Expansion, Inference, Rerank
from src.config.kaggle import Kaggle
from src.config.losses import EXCLUSIVE, LOSSES, MARGINS, Losses, Margin
from src.config.model import Model
from src.config.optim import Optim
from src.config.pixels import Augment, Mixing
from src.config.pseudo import Pseudo
from src.config.runtime import Runtime, Submit, Tracking
from src.config.section import NoEffect, Section, UserError
from src.config.stack import Stack
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
