"""Findings with their reasons; a working value that the competitor chose is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One line of the output. `key` is a config key, or a plain name if no key holds the value."""

    key: str
    value: Any
    why: str
    unsure: str | None = None  # the alternative, and how to decide
    instead: Any = None  # the inferred value, if the competitor's own value was kept

    @property
    def is_setting(self) -> bool:
        return "." in self.key


@dataclass
class Findings:
    """The findings in the order they were found. `chosen` holds the competitor's own values by key."""

    chosen: dict[str, Any] = field(default_factory=dict)
    lines: list[Finding] = field(default_factory=list)

    def settle(
        self,
        key: str,
        guess: Any,
        why: str,
        unsure: str | None = None,
        works: Callable[[Any], bool] = lambda _: True,
    ) -> Any:
        """Use the competitor's own value if it works, otherwise the guess; record which, and why."""
        own = self.chosen.get(key, guess)
        if own != guess and works(own):
            self.lines.append(Finding(key, own, "as you set it", None, guess))
            return own
        if own != guess:
            why = f"{why}; {as_shown(own)} stood there, which the files do not bear out"
        self.lines.append(Finding(key, guess, why, unsure))
        return guess

    def note(self, key: str, value: Any, why: str, unsure: str | None = None) -> None:
        """Record information that no config key holds."""
        self.lines.append(Finding(key, value, why, unsure))

    def __getitem__(self, key: str) -> Any:
        return next(line.value for line in reversed(self.lines) if line.key == key)

    def get(self, key: str) -> Any:
        """The value of a key, or None if nothing was found."""
        return next((line.value for line in reversed(self.lines) if line.key == key), None)

    def __contains__(self, key: str) -> bool:
        return any(line.key == key for line in self.lines)

    def settings(self) -> dict[str, Any]:
        """The values that belong in the config, by dotted key."""
        return {line.key: line.value for line in self.lines if line.is_setting}


def as_shown(value: Any) -> str:
    """A value as shown in the output and in the config."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(as_shown(item) for item in value) + "]"
    if isinstance(value, str) and value != value.strip():
        return repr(value)  # a space between labels would be invisible
    return "null" if value is None else str(value)


def first_few(values: Any, most: int = 4) -> str:
    """The first few values, and the total number if there are more."""
    values = [str(value) for value in values]
    more = f", … ({len(values)} in all)" if len(values) > most else ""
    return ", ".join(values[:most]) + more
