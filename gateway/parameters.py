"""Query parameters and form fields: a class says which there are, and they are read and documented by it.

    class Logs(Parameters):
        level: Annotated[str, OneOf(LEVELS)] | None = None
        limit: Annotated[int, Field(ge=1, le=1000), WHOLE] = 100

A parameter that is left out has its default, or is wrong without one; one the class does not know is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from gateway.errors import invalid

LARGEST = 10**15 - 1
"""Fits what databases compare, with room for a multiplication by a page's size."""
INTEGER = re.compile(r"-?[0-9]{1,15}")
FLAGS = {"true": True, "1": True, "false": False, "0": False}

P = TypeVar("P", bound="Parameters")


class Parameters(BaseModel):
    """Base of what a handler reads from the query, or from a form."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def read(cls: type[P], given: Mapping[str, object]) -> P:
        """The parameters among `given`, the first of each name.

        Raises:
            ApiError: 400 with everything that is wrong, by parameter.
        """
        try:
            return cls.model_validate({name: given[name] for name in cls.model_fields if name in given})
        except ValidationError as error:
            raise invalid(_by_name(error, cls)) from None


@dataclass(frozen=True)
class OneOf:
    """Says of a text that only some are accepted."""

    accepted: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, core_schema.str_schema())

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "enum": [str(one) for one in self.accepted]}

    def _check(self, text: str) -> str:
        if text not in self.accepted:
            raise _none_of(self.accepted)
        return text


def _none_of(accepted: tuple[str, ...]) -> PydanticCustomError:
    return PydanticCustomError("choice", "Must be one of: {accepted}", {"accepted": ", ".join(accepted)})


def _whole(value: object) -> object:
    if isinstance(value, str) and not INTEGER.fullmatch(value):
        raise PydanticCustomError("whole", "must be a whole number")
    return value


def _flag(value: object) -> object:
    if isinstance(value, str):
        if value.lower() not in FLAGS:
            raise _none_of(tuple(FLAGS))
        return FLAGS[value.lower()]
    return value


def _moment(value: object) -> object:
    """Without a time zone it is in UTC, without a time it is the day's beginning."""
    if not isinstance(value, str):
        return value
    try:
        at = datetime.fromisoformat(value.replace(" ", "+"))  # a "+" in a query that was not encoded
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        text = "must be a date or time in ISO 8601, such as 2024-01-15T10:30:00Z"
        raise PydanticCustomError("moment", text) from None


WHOLE = BeforeValidator(_whole)
"""Behind an integer's limits: a whole number in decimal digits, as pydantic alone would also take "1.0" and "1_000"."""
Flag = Annotated[bool, BeforeValidator(_flag)]
Moment = Annotated[datetime, BeforeValidator(_moment)]


def _by_name(error: ValidationError, model: type[Parameters]) -> dict[str, list[str]]:
    limits = model.model_json_schema()["properties"]
    wrong: dict[str, list[str]] = {}
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        name = str(item["loc"][0])
        wrong.setdefault(name, []).append(_sentence(name, item["type"], item["msg"], limits[name]))
    return wrong


def _sentence(name: str, kind: str, text: str, limits: Mapping[str, Any]) -> str:
    words = name.replace("_", " ")
    match kind:
        case "choice":
            return f"Invalid {words}. {text}"
        case "greater_than_equal" | "less_than_equal":
            text = f"must be {_range(limits['minimum'], limits['maximum'])}"
        case "missing":
            text = "is required"
        case "string_too_short":
            text = "must not be empty"
        case "string_too_long":
            text = f"must have at most {_inner(limits)['maxLength']} characters"
        case "string_pattern_mismatch":
            text = "has a wrong form"
    return f"{words.capitalize()} {text}"


def _inner(limits: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(iter(limits["anyOf"])) if "anyOf" in limits else limits


def _range(minimum: int, maximum: int) -> str:
    if maximum == LARGEST:
        return f"{minimum} or greater" if minimum == 0 else f"greater than {minimum - 1}"
    return f"between {minimum} and {maximum}"
