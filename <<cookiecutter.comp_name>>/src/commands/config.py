"""Print an experiment's config: all of it as YAML, or what one key or section means, with its value.

make config
make config KEY=train.ema
make config EXP=student KEY=distill.temperature
"""

from __future__ import annotations

import argparse
import difflib
import textwrap
from collections.abc import Iterator
from pathlib import Path

from src.artifacts import write_text
from src.config import Config, UserError
from src.config.reference import entries, markdown, matching, yaml_text
from src.configfile import load_config
from src.entry import plain_errors

WIDTH = 100  # columns of the text


@plain_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/baseline.yaml", help="the experiment (%(default)s)")
    parser.add_argument("--key", help="a key or a section, such as train.ema")
    parser.add_argument(
        "--page", type=Path, help="write the page of all keys to this file, as docs/config.md"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args()
    if arguments.page is not None:
        write_text(arguments.page, markdown())
        return
    config = load_config(arguments.config, arguments.overrides)
    if arguments.key is None:
        import yaml

        print(yaml.safe_dump(config.settings(), sort_keys=False, allow_unicode=True), end="")
        return
    for line in explained(config, arguments.key):
        print(line)


def explained(config: Config, key: str) -> Iterator[str]:
    """The lines about a key, or about all keys of a section. Raises `UserError`, with near names, where there
    is no such key."""
    found = matching(key)
    if not found:
        names = [entry.key for entry in entries()]
        near = difflib.get_close_matches(key, names, n=3) or sorted({name.split(".")[0] for name in names})
        raise UserError(f"KEY={key}: there is no such key or section; near ones are {', '.join(near)}")
    for entry in found:
        if entry.is_section:
            yield f"{entry.key}: {entry.meaning}"
            continue
        value = config
        for name in entry.key.split("."):
            value = getattr(value, name, None)
        shown = yaml_text(value)
        default = "its default" if shown == entry.default else f"default {entry.default}"
        yield f"{entry.key} = {shown}    ({default}; {entry.values.replace('`', '')})"
        yield from textwrap.wrap(entry.meaning, WIDTH, initial_indent="    ", subsequent_indent="    ")


if __name__ == "__main__":
    main()
