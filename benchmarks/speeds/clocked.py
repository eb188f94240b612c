"""Run the stages, and note when each of them runs, when it trains and when it predicts: what shares.py puts
in the place of Python.

    CLOCK=FILE python benchmarks/speeds/clocked.py -m src.commands.all --config configs/baseline.yaml

FILE gets a line of JSON an interval: its kind, its first and its last second since 1970. Workers are forked,
and write into the same file.
"""

from __future__ import annotations

import functools
import importlib.machinery
import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any

STAGE = "src.commands.stages"
CLOCKED = {  # what is a stage, what is training and what is inference, by module
    STAGE: {None: ("attempt",)},
    "src.training.trainer": {"Trainer": ("train_epoch", "look", "final_state", "measure")},
    "src.inference.predict": {None: ("predict", "predict_maps", "embed")},
    "src.ensemble.blenders.base": {None: ("nested_oof", "learn", "predict")},
}


def note(kind: str, first: float) -> None:
    """Append an interval that ends now."""
    line = json.dumps({"kind": kind, "first": first, "last": time.time()}) + "\n"
    with open(os.environ["CLOCK"], "a", encoding="utf-8") as file:
        file.write(line)


def clocked(function: Callable, kind: str) -> Callable:
    """The same function, with its intervals noted."""

    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        first = time.time()
        try:
            return function(*arguments, **named)
        finally:
            note(arguments[0].stem if kind == STAGE else kind, first)

    return timed


class Clocks:
    """A finder that clocks functions as soon as their module was read, before others take them from it."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """The module's own spec, whose loader clocks what it loaded."""
        if name not in CLOCKED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            for owner, names in CLOCKED[name].items():
                place = module if owner is None else getattr(module, owner)
                for one in names:
                    setattr(place, one, clocked(getattr(place, one), name))

        spec.loader.exec_module = exec_module
        return spec


if __name__ == "__main__":
    sys.meta_path.insert(0, Clocks())
    _, _, module, *rest = sys.argv
    sys.argv = [module, *rest]
    sys.path[0] = os.getcwd()  # as if the module had been started itself
    runpy.run_module(module, run_name="__main__")
