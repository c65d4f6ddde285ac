"""What the sections of the config are made of: kinds of values, and the class that all sections derive from."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_bytes(value: Any) -> Any:
    """`"2 GiB"` → 2147483648; numbers pass unchanged."""
    if not isinstance(value, str):
        return value
    number = value.rstrip("BKMGi ").strip()
    unit = value[len(number) :].strip() or "B"
    try:
        return int(float(number) * UNITS[unit])
    except (KeyError, ValueError):
        raise ValueError(f"not a size: {value!r} (write 512 MiB or 2 GiB)") from None


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_columns(value: Any) -> Any:
    return [] if value is None else as_list(value)


Columns = Annotated[list[str], BeforeValidator(_as_columns)]
Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
Paths = Annotated[list[str], BeforeValidator(as_list), Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]


def plain_type(annotation: Any) -> Any:
    """The type itself where it stands with its constraints."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        kinds = {plain_type(each) for each in (kind, *get_args(kind))}
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError(f"{str(value).lower()} is not a number")
        return value
