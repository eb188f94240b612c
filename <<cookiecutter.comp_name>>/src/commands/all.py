"""Run stages 01 to 06 in one process, so that torch and timm are imported once; also a queue of experiments.

    make all EXP="baseline wide wider"

runs 01 to 03 of each experiment, one after the other, then 04 to 06 of the first. All configs are checked
before anything starts. A failed experiment does not stop the rest; the failed ones are listed at the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict

from src.cli import configured
from src.commands.stages import run_stage, scripts
from src.config import Config, UserError
from src.entry import plain_errors
from src.machine import limit_threads

EACH = ("01", "02", "03")  # stages of every experiment; the others run for the first one only


@plain_errors()
def main() -> None:
    """Check the configs, run the stages, print how long each took."""
    parser = argparse.ArgumentParser(
        prog="python -m src.commands.all",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", action="append", help="an experiment; again for another")
    parser.add_argument("--force", action="store_true", help="make everything again")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of all of them")
    arguments = parser.parse_intermixed_args()
    paths = arguments.config or ["configs/baseline.yaml"]
    configs = [configured(path, arguments.overrides, look_first=True) for path in paths]
    if len({config.name for config in configs}) < len(configs):
        raise UserError(f"two of {', '.join(paths)} have the same name and would be one run")
    limit_threads(configs[0])
    status = run_queue(configs, arguments.force)
    sys.exit(status)


def run_queue(configs: list[Config], force: bool) -> int:
    """Run all stages; returns the exit status: 0, 2 if the user can fix a failure, else 1."""
    failed: dict[str, int] = {}
    seconds: dict[str, float] = defaultdict(float)
    each = [script for script in scripts() if script.name.startswith(EACH)]
    closing = [script for script in scripts() if script not in each]
    for config, several in [*((config, each) for config in configs), (configs[0], closing)]:
        for script in several:
            if config.name not in failed:
                print(f"--- {script.name} {config.name}", flush=True)
                began = time.monotonic()
                status = run_stage(script, config, force)
                seconds[script.stem] += time.monotonic() - began
                if status:
                    failed[config.name] = status
    print(f"all: {', '.join(f'{name} {value:.0f} s' for name, value in seconds.items())}")
    if failed and len(configs) > 1:
        print(f"error: not finished: {', '.join(failed)}; see above", file=sys.stderr)
    return min(failed.values(), default=0)


if __name__ == "__main__":
    main()
