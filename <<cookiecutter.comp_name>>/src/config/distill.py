"""Knowledge distillation: which finished runs teach this one, and how."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Tag, field_validator

from src.config.section import Name, Positive, Section, Share, Switch

Names = Annotated[  # told apart before they are checked: a wrong one of several is told as what it is
    Annotated[Name, Tag("one")] | Annotated[tuple[Name, ...], Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, list | tuple) else "one"),
]


class Distill(Section):
    teacher: Names | None = None
    """Knowledge distillation: finished run, or runs, whose fold k model teaches fold k. `null`: off."""

    weight: Share = 0.5
    """Weight of the distillation loss; the supervised loss has the rest."""

    temperature: Positive = 2.0
    """Softmax temperature of teacher and student."""

    hard: Switch = None
    """`true`: the teacher's most likely class as a hard label, which suits a teacher that is too certain.
    `null`: soft labels."""

    features: Positive | None = None
    """Weight of relational knowledge distillation (RKD): distances and angles between embeddings; the paper
    uses 1, for classes 25. `null`: off."""

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of all teachers; none where it is off."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher or ()

    @field_validator("teacher")
    @classmethod
    def _each_once(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        """A list of one is that one."""
        if not isinstance(value, tuple):
            return value
        if not value or len(set(value)) < len(value):
            raise ValueError("it must name one finished run or more, each once, such as [big, wide]")
        return value[0] if len(value) == 1 else value


def check_distill(distill: Distill, name: str, task: str) -> None:
    """Raise ValueError for a run that teaches itself, a lesson without a teacher, and one that the task does
    not have."""
    if name in distill.teachers:
        raise ValueError(f"distill.teacher={name} is this run itself: name another finished run")
    for key in ("hard", "features"):
        if getattr(distill, key) is not None and not distill.teachers:
            raise ValueError(
                f"distill.{key} is about a teacher, and there is none; name it in distill.teacher"
            )
    if distill.hard and task in ("regression", "retrieval"):
        what = "a number" if task == "regression" else "an embedding"
        raise ValueError(
            f"distill.hard makes labels of probabilities, and a {task}'s teacher says {what}; leave it out"
        )
