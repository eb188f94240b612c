"""Change single values of a YAML file and keep every other line, including comments."""

from __future__ import annotations

import json
import re
from typing import Any

DOUBT = "# unsure: "
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # YAML reads them as another type


def as_yaml(value: Any) -> str:
    """A value as YAML, quoted if YAML would read it as another type."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(as_yaml(item) for item in value) + "]"
    if value is None:
        return "null"
    if not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else str(value)
    plain = re.fullmatch(r"[A-Za-z_][\w./-]*", value, re.ASCII) and value.lower() not in _WORDS
    return value if plain else json.dumps(value, ensure_ascii=False)


def edit_yaml(text: str, section: str, values: dict[str, Any], doubts: dict[str, str], head: str = "") -> str:
    """The YAML text with these keys of a top-level section set; missing keys are added at its end.

    A doubt becomes a comment line above its key and replaces an earlier one. `head` is a comment line below
    the section's name.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if re.match(rf"{section}\s*:", line)), None)
    if start is None:
        lines += [*([""] if lines and lines[-1].strip() else []), f"{section}:"]
        start = len(lines) - 1
    elif not re.fullmatch(rf"{section}\s*:\s*(#.*)?", lines[start]):
        lines[start : start + 1] = _unfolded(lines[start], section)
    if head and not any(line.strip() == head for line in lines):
        lines.insert(start + 1, f"  {head}")
    for key, value in values.items():
        _set(lines, start, key, value, doubts.get(key))
    return "\n".join(lines) + "\n"


def is_doubted(text: str, key: str) -> bool:
    """Whether a doubt comment is above the key."""
    return re.search(rf"^\s*{DOUBT}.*\n\s*{re.escape(key)}\s*:", text, re.MULTILINE) is not None


def _unfolded(line: str, section: str) -> list[str]:
    """Rewrite `data: {id: a}` or `data: null` as a block with one line per key."""
    import yaml

    inside = yaml.safe_load(line)[section] or {}
    return [f"{section}:", *(f"  {key}: {as_yaml(value)}" for key, value in inside.items())]


def _end(lines: list[str], start: int) -> int:
    """The line after the last line of the section."""
    end = start + 1
    for i in range(start + 1, len(lines)):
        if lines[i].strip() and not lines[i].startswith((" ", "\t")):
            break
        if lines[i].strip():
            end = i + 1
    return end


def _set(lines: list[str], start: int, key: str, value: Any, doubt: str | None) -> None:
    end = _end(lines, start)
    inside = [line for line in lines[start + 1 : end] if line.strip() and not line.strip().startswith("#")]
    indent = re.match(r"\s*", inside[0])[0] if inside else "  "
    place = next(
        (i for i in range(start + 1, end) if re.match(rf"{indent}{re.escape(key)}\s*:", lines[i])), None
    )
    new = f"{indent}{key}: {as_yaml(value)}"
    if place is None:
        lines.insert(end, new)
        place = end
    else:
        comment = re.search(r"\s+#.*$", _without_quotes(lines[place]))
        last = place + 1
        while last < end and re.match(rf"{indent}(\s+\S|- )", lines[last]) and not _is_comment(lines[last]):
            last += 1  # a list in block style
        lines[place:last] = [new + (lines[place][comment.start() :] if comment else "")]
    if lines[place - 1].strip().startswith(DOUBT):
        del lines[place - 1]
        place -= 1
    if doubt:
        lines.insert(place, f"{indent}{DOUBT}{doubt}")


def _is_comment(line: str) -> bool:
    return line.strip().startswith("#")


def _without_quotes(line: str) -> str:
    """The line with quoted text masked, so that a `#` inside quotes does not count as a comment."""
    return re.sub(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'", lambda found: "x" * len(found[0]), line)
