"""The six stage scripts, callable within a process."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from src.config import Config, UserError
from src.entry import fail, lost_output, report

_PROJECT = Path(__file__).resolve().parents[2]


def scripts() -> list[Path]:
    """Paths of the stage scripts 01 to 06, in order."""
    return sorted(_PROJECT.glob("0?_*.py"))


def stage(script: Path) -> Callable[[Config, bool], None]:
    """The `run(config, force)` function of a stage script."""
    spec = importlib.util.spec_from_file_location(f"stage_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run


def run_stage(script: Path, config: Config, force: bool) -> int:
    """Run one stage; returns 0, or the exit status of its error."""
    try:
        stage(script)(config, force)
    except UserError as error:
        return fail(str(error))
    except Exception as error:
        if status := lost_output(error):  # later output could not be written either
            sys.exit(status)
        return report(error)
    return 0
