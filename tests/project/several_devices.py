"""A worker of test_launcher.py, alone or under `torchrun`: train a fold in float64, save its weights.

python several_devices.py CONFIG OUT key=value ...
"""

from __future__ import annotations

import sys

import conftest  # noqa: F401  sets one thread and the import path
import torch
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)

from src.configfile import load_config  # noqa: E402
from src.data.loaders import load_fold  # noqa: E402
from src.tasks import create_task  # noqa: E402
from src.training.distributed import SINGLE_PROCESS, is_one_of_several, join  # noqa: E402
from src.training.trainer import Trainer  # noqa: E402


def main(path: str, out: str, *overrides: str) -> None:
    """Train fold 0 with these overrides; the first process writes the weights to `out`."""
    config = load_config(path, list(overrides))
    world, device = join(config) if is_one_of_several() else (SINGLE_PROCESS, torch.device("cpu"))
    task = create_task(config)
    data = load_fold(config, task, 0)
    trainer = Trainer(config, task, data, data.train, 0, device, world=world)
    for epoch in range(config.train.epochs):
        trainer.train_epoch(epoch, lambda *_, **__: None)
    if world.first:
        save_file({name: x.contiguous() for name, x in trainer.model.state_dict().items()}, out)
    world.gather(None)


if __name__ == "__main__":
    main(*sys.argv[1:])
