"""What every table of the configuration has in common."""

from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class Table(BaseModel):
    """A TOML table: its keys are the fields, and it has no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def table_of(annotation: Any) -> type[Table] | None:
    """The table a field holds, be it one, a list of them, or one under each name; None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    return next((table for arg in get_args(annotation) if (table := table_of(arg))), None)


def is_named(field: FieldInfo) -> bool:
    """Whether the field's tables each have a name: `[brands.ID]`."""
    return get_origin(field.annotation) is dict


def is_list(field: FieldInfo) -> bool:
    """Whether the field's tables are a list: `[[callers.NAME.allow]]`."""
    return get_origin(field.annotation) is tuple
