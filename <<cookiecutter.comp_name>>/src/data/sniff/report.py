"""Print the findings and write them into the config; every guess is printed, and no value is replaced
silently."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from src.artifacts import write_text
from src.config import UserError
from src.configfile import known_keys, layers_of, load_config
from src.data.sniff.edit import edit_yaml, is_doubted
from src.data.sniff.findings import Findings, as_shown
from src.data.sniff.look import find_settings

CONFIG_HEAD = "# Filled in by `make sniff`. Change what is wrong: a value that works is never replaced."
WIDE = 44  # maximum characters of a value in the output


def sniff(path: Path, overrides: list[str] = (), force: bool = False, dry: bool = False) -> Findings:
    """Infer the settings, print them, and write them to the config; returns the findings.

    A value counts as the competitor's own if a file sets it to something other than the default, if an
    earlier `make sniff` filled in the file, or if it comes from the command line.
    """
    config = load_config(path, list(overrides), effects=False)
    layers = layers_of(path, list(overrides))
    ground = Path(layers[0][0])
    text = ground.read_text(encoding="utf-8")
    chosen = {} if force else _chosen(layers, before=CONFIG_HEAD in text)
    findings = find_settings(config, chosen | _flat(layers[-1][1]))
    _print(findings, config.data.raw)
    new = _edited(text, findings, layers, seen=CONFIG_HEAD in text)
    _print_change(ground, text, new, dry)
    if new != text and not dry:
        write_text(ground, new)
        try:
            load_config(path)
        except UserError as error:
            write_text(ground, text)
            raise UserError(f"{ground} was left as it was: with what was found in it, {error}") from None
    _print_doubts(findings, layers, ground)
    return findings


def _chosen(layers: list[tuple[str, dict]], before: bool) -> dict[str, Any]:
    """The values that somebody has set, by dotted key."""
    default, chosen = known_keys(), {}
    for _, layer in layers[:-1]:
        chosen |= _flat(layer)
    return {key: value for key, value in chosen.items() if before or value != _plain(default.get(key))}


def _flat(layer: dict) -> dict[str, Any]:
    found = {}
    for section in ("task", "data"):
        for key, value in (layer.get(section) or {}).items():
            found[f"{section}.{key}"] = tuple(value) if isinstance(value, list) else value
    return found


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _edited(text: str, findings: Findings, layers: list[tuple[str, dict]], seen: bool) -> str:
    """The base config file with the new values; unchanged values are left alone."""
    default, there = known_keys(), _flat(layers[0][1])
    lines = {line.key: line for line in findings.lines if line.is_setting}
    for section in ("task", "data"):
        values, doubts = {}, {}
        for key, line in lines.items():
            if not key.startswith(f"{section}."):
                continue
            old = there.get(key, _plain(default[key]))
            doubted = is_doubted(text, key.partition(".")[2])
            changes_mark = not doubted if line.unsure and not seen else doubted and not line.unsure
            if _plain(line.value) != old or (changes_mark and key != "task.metric"):
                values[key.partition(".")[2]] = line.value
                if line.unsure:
                    doubts[key.partition(".")[2]] = line.unsure.replace("\n", " ")
        head = CONFIG_HEAD if section == "data" and not seen else ""
        if values or head:
            text = edit_yaml(text, section, values, doubts, head)
    return text


def _print(findings: Findings, raw: str) -> None:
    print(f"What is in {raw}")
    rows = [(line.key, as_shown(line.value), line.why, line.unsure) for line in findings.lines]
    rows = [row for row in rows if not (row[1] == "null" and row[0] in QUIET and not row[3])]
    wide = max(len(key) for key, *_ in rows)
    most = min(WIDE, max(len(value) for _, value, *_ in rows))
    for key, value, why, unsure in rows:
        value = value if len(value) <= WIDE else value[: WIDE - 1] + "…"
        print(f"{'?' if unsure else ' '} {key:{wide}}  {value:{most}}  {why}")


QUIET = (
    "data.label_separator",
    "data.long",
    "data.image",
    "data.mask",
    "data.mask_classes",
    "data.new_label",
)  # not worth a line if null


def _print_change(ground: Path, old: str, new: str, dry: bool) -> None:
    if old == new:
        print(f"\n{ground} says so already; nothing to write.")
        return
    print(f"\n{ground}{' would change' if dry else ''}:")
    for line in list(difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm=""))[2:]:
        if not line.startswith("@@"):
            print(f"  {line}")


def _print_doubts(findings: Findings, layers: list[tuple[str, dict]], ground: Path) -> None:
    kept = [line for line in findings.lines if line.instead is not None or line.why == "as you set it"]
    if kept:
        print("\nKept as you set it:")
        for line in kept:
            print(f"  {line.key}: {as_shown(line.value)}, where the files say {as_shown(line.instead)}")
    above = []
    for source, layer in layers[1:]:
        for key, value in _flat(layer).items():
            if key in findings and _plain(findings[key]) != value:
                above.append(f"  {source} sets {key}={as_shown(value)} over what {ground.name} says")
    print("\n".join(["", "Mind:", *above]) if above else "", end="\n" if above else "")
    unsure = [line for line in findings.lines if line.unsure]
    if unsure:
        print(f"\nUnsure of {len(unsure)}, look yourself:")
        for line in unsure:
            print(f"  {line.key}: {as_shown(line.value)[:WIDE]}; {line.unsure}")
    print("\nNext: `make folds`")
