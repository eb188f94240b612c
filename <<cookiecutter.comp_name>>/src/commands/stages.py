"""The six stage scripts, to be called within a process."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from src.config import Config, UserError
from src.entry import fail, lost_output, report

_PROJECT = Path(__file__).resolve().parents[2]


def scripts() -> list[Path]:
    """01 to 06, in their order."""
    return sorted(_PROJECT.glob("0?_*.py"))


def stage(script: Path) -> Callable[[Config, bool], None]:
    """The `run` of a stage script: `run(config, force)`."""
    spec = importlib.util.spec_from_file_location(f"stage_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run


def run_stage(script: Path, config: Config, force: bool) -> int:
    """Run one stage; 0, or the status of what it ended with."""
    try:
        stage(script)(config, force)
    except UserError as error:
        return fail(str(error))
    except Exception as error:
        if status := lost_output(error):  # nothing that follows could be read either
            sys.exit(status)
        return report(error)
    return 0
