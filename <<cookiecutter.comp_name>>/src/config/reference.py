"""The reference of all config keys, made from the schema: for docs/config.md and `make config KEY=...`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from src.config.tree import Config

HIDDEN = {"root"}
INTRO = """# Config keys

Every key of an experiment's YAML file, generated from `src/config/` (a test compares the two). `make config`
prints them all with the values that an experiment has, `make config KEY=train.ema` explains one key or one
section. A key is written in YAML below its section, or on the command line as `key=value`. `null` switches a
thing off, or leaves it to the rule that is named.
"""
BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))


@dataclass(frozen=True)
class Entry:
    """One key: its dotted name, the values it takes, its default as YAML writes it, and what it means."""

    key: str
    values: str
    default: str
    meaning: str
    is_section: bool = False


def entries() -> Iterator[Entry]:
    """All keys in the order of the config, each section before its keys."""
    schema = Config.model_json_schema()
    yield from _of_section(schema, schema.get("$defs", {}), "")


def matching(key: str) -> list[Entry]:
    """The entry of a key with those below it; none where there is no such key."""
    return [one for one in entries() if one.key == key or one.key.startswith(f"{key}.")]


def markdown() -> str:
    """The page of all keys: a table for each section."""
    parts, open_table = [INTRO], False
    for one in entries():
        if one.is_section:
            parts.append(f"\n## {one.key}\n\n{one.meaning}\n" if one.meaning else f"\n## {one.key}\n")
            open_table = False
            continue
        if not open_table:
            parts.append("\n| key | values | default | meaning |\n|---|---|---|---|\n")
            open_table = True
        cells = (f"`{one.key}`", one.values, f"`{one.default}`", one.meaning)
        parts.append(f"| {' | '.join(map(_escaped, cells))} |\n")
    return "".join(parts)


def _of_section(schema: dict[str, Any], definitions: dict[str, Any], prefix: str) -> Iterator[Entry]:
    own, sections = [], []
    for name, field in schema["properties"].items():
        if name in HIDDEN:
            continue
        inner = _section_in(field, definitions)
        meaning = " ".join(field.get("description", "").split())
        if inner is None:
            values, default = _values(field, definitions), yaml_text(field.get("default"))
            own.append(Entry(prefix + name, values, default, meaning))
        else:
            sections.append((prefix + name, meaning, inner))
    yield from own
    for name, meaning, inner in sections:
        yield Entry(name, "", "", meaning, is_section=True)
        yield from _of_section(inner, definitions, f"{name}.")


def _section_in(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of the section that a field holds, also one that may be null."""
    for choice in (field, *field.get("anyOf", ())):
        inner = definitions.get(choice.get("$ref", "").rpartition("/")[2], {})
        if "properties" in inner:
            return inner
    return None


def _values(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a key takes, in words: choices, a kind of value with its bounds, or null."""
    if "$ref" in field:
        return _values(definitions[field["$ref"].rpartition("/")[2]], definitions)
    for key in ("anyOf", "oneOf"):
        if key in field:
            several = [_values(choice, definitions) for choice in field[key]]
            return ", or ".join(dict.fromkeys(one for one in several if one))
    if "enum" in field:
        return ", ".join(f"`{yaml_text(value)}`" for value in field["enum"])
    if "const" in field:
        return f"`{yaml_text(field['const'])}`"
    kind = field.get("type", "")
    if kind == "array":
        inner = field.get("items", {}) or (field.get("prefixItems") or [{}])[0]
        return f"list of {_values(inner, definitions)}" if inner else "list"
    if kind == "object":
        return "mapping"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
    bounds = [f"{sign} {field[name]:g}" for name, sign in BOUNDS if name in field]
    return " ".join([words.get(kind, "`null`" if kind == "null" else kind), *bounds])


def yaml_text(value: Any) -> str:
    """A value as a YAML file would hold it, on one line."""
    if isinstance(value, str):
        return value if value and value.strip() == value else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)


def _escaped(text: str) -> str:
    """Text for a cell of a Markdown table: `<name>` outside of code would be taken for HTML."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if i % 2 else part.replace("<", "\\<") for i, part in enumerate(parts))
