"""What every part of the tree is made of: the base class, the error, the kinds of numbers."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator


class UserError(Exception):
    """Something the competitor can mend: one sentence that says what, where, and what a good value looks
    like."""


class NoEffect(UserError):
    """A key that is set and does nothing, or a change that changes nothing."""


class Section(BaseModel):
    """A part of the tree: unknown keys are errors, values cannot be changed once read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads a bare `off` as false: give the word back where it is one of the choices, else
        refuse."""
        kind = cls.model_fields[info.field_name].annotation
        if not isinstance(value, bool) or kind is bool or bool in get_args(kind):
            return value
        if "off" in get_args(kind) and not value:
            return "off"
        raise ValueError("true and false (also yes, no, on, off) mean nothing here; quote it if it is a word")


# On, or off: false is as good as null, which a fingerprint leaves out.
Switch = Annotated[bool | None, BeforeValidator(lambda value: None if value is False else value)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
