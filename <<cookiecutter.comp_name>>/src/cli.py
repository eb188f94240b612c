"""The command line of the six stage scripts: load the config, apply overrides, report errors plainly."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from src.config import Config
from src.config.effects import ignored
from src.configfile import load_config
from src.entry import plain_errors
from src.machine import limit_threads


@plain_errors()
def main(stage: Callable[[Config, bool], None], doc: str, look_first: bool = False) -> None:
    """Run one stage as `stage(config, force)`; `doc` is the script's docstring, shown by --help.

    With `look_first`, a config without a data section is first completed from the raw files.
    """
    parser = argparse.ArgumentParser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Any key of the config can be changed for one call: train.lr=1e-3 data.image_size=128",
    )
    parser.add_argument(
        "--config", default="configs/baseline.yaml", help="the experiment (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="make everything of this stage again")
    parser.add_argument("--show", action="store_true", help="print the resolved config and stop")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.epochs=3 fold=0")
    arguments = parser.parse_intermixed_args()
    config = configured(arguments.config, arguments.overrides, look_first and not arguments.show)
    if arguments.show:
        import yaml

        print(yaml.safe_dump(config.settings(), sort_keys=False, allow_unicode=True), end="")
        return
    limit_threads(config)
    stage(config, arguments.force)


def configured(path: str, overrides: list[str], look_first: bool = False) -> Config:
    """Load and check the config of a file with its overrides; `look_first` as for `main`."""
    config = load_config(path, overrides, effects=not look_first)
    if look_first and "data" not in config.model_fields_set:
        from src.data.sniff.report import sniff

        print("the config says nothing of the data yet: looking at the raw files first")
        sniff(Path(path), overrides)
    if look_first:  # the data section, and with it the task, is now written
        config = load_config(path, overrides)
    check_known_names(config)
    for key, why in ignored(config).items():
        print(f"{key} has no effect here: {why}")
    return config


def check_known_names(config: Config) -> None:
    """Check names that `src/config` cannot check: task, metric, backbone and TTA views.

    Also checks that the metric can use the configured average of the views. Raises `UserError`.
    """
    from src.data.views import check_views
    from src.inference.average import check_average
    from src.models.names import check_backbone
    from src.tasks import create_task

    task = create_task(config)
    check_backbone(config.model.backbone)
    check_views(config.inference, task.name)
    check_average(config.inference, task.metric, task.name)
