"""What a client asks for, checked against the catalogue and made whole: every default is resolved here, once."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import uuid
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    HttpUrl,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from config.catalogue import Catalogue, ModelEntry
from pipeline.errors import InvalidRequest
from pipeline.vocabulary import JobRequest, new_id, now

MAX_DURATION_S = 60
MAX_FPS = 60
DEFAULT_DURATION_S = 4.0
MAX_METADATA_BYTES = 4096
MIN_EXPIRES_IN_S, MAX_EXPIRES_IN_S = 60, 10 * 365 * 24 * 3600
HTTP_URL = TypeAdapter(HttpUrl)
CONTROLS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f"
PLAIN, PRINTABLE = rf"^[^{CONTROLS}]*$", rf"^[^{CONTROLS}]*[^\s{CONTROLS}][^{CONTROLS}]*$"
RECEIVER: dict[str, Any] = {"pattern": "^https?://"}
"""How a URL is documented; what it may be exactly depends on where it leads."""
MAX_GUIDANCE = 30
"""Far above any catalogue row (1 to 7.5); beyond it guided predictions only saturate."""


class Asked(BaseModel):
    """Base of what a client may ask for. A field that is null counts as left out, and is documented so."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Mapping[str, object]) -> dict[str, object]:
        return {name: value for name, value in given.items() if value is not None or name not in cls.model_fields}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        told = handler.resolve_ref_schema(handler(schema))
        for name, field in told["properties"].items():
            if name not in told.get("required", []) and "anyOf" not in field:
                about = {key: field.pop(key) for key in ("title", "default") if key in field}
                told["properties"][name] = {"anyOf": [field, {"type": "null"}], **about}
        return told


def _integral(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


INTEGRAL = BeforeValidator(_integral)
"""Behind an integer's limits: JSON knows numbers only, and 24.0 is as whole as 24."""


def resolve(body: Mapping[str, object], *, user_id: str, catalogue: Catalogue, default_model: str) -> JobRequest:
    """The job that `body` asks for. A field that is null counts as left out.

    Args:
        body: prompt, and optionally negative_prompt, duration (s), quality, fps (Hz), aspect_ratio, seed, model, steps,
            guidance, priority, metadata, webhook_url, expires_in (s), reuse; numbers are never read from
            strings or booleans.
        user_id: who asks.
        default_model: the model where the body names none.

    Raises:
        InvalidRequest: names every wrong or unknown field, with what would be accepted.
    """
    given = dict(body)
    name = given.pop("model", None)
    name = default_model if name is None else name
    known = isinstance(name, str) and name in catalogue.names
    entry = catalogue.get(str(name) if known else default_model)
    errors = {} if known else {"model": [f"Must be one of: {', '.join(catalogue.names)}"]}
    try:
        asked = parameters(entry).model_validate(given)
    except ValidationError as error:
        raise InvalidRequest(errors | by_field(error, ("model", *parameters(entry).model_fields))) from None
    if errors:
        raise InvalidRequest(errors)
    return _job(asked.model_dump(), user_id, entry)


@lru_cache(maxsize=64)
def _parameters(row: str) -> type[Asked]:
    entry = ModelEntry.model_validate_json(row)
    ratios = entry.aspect_ratios
    fields: dict[str, Any] = {
        "prompt": (_text(1, entry.max_prompt_chars), ...),
        "negative_prompt": (_text(0, entry.max_prompt_chars), ""),
        "duration": (
            Annotated[float, Field(ge=1, le=min(MAX_DURATION_S, entry.max_duration_s))],
            min(DEFAULT_DURATION_S, entry.max_duration_s),
        ),
        "quality": (Literal["720p", "1080p"], "1080p"),
        "fps": (Annotated[int, Field(ge=1, le=MAX_FPS), INTEGRAL], entry.output_fps),
        "aspect_ratio": (Literal[ratios], ratios[0]),
        "seed": (Annotated[int, Field(ge=0, lt=2**32), INTEGRAL] | None, None),
        "steps": (Annotated[int, Field(ge=entry.min_steps, le=entry.max_steps), INTEGRAL], entry.steps),
        "guidance": (Annotated[float, Field(ge=1, le=MAX_GUIDANCE)], entry.guidance),
        "priority": (Literal["low", "normal", "high"], "normal"),
        "metadata": (Annotated[dict[str, Any], AfterValidator(_small)], Field(default_factory=dict)),
        "webhook_url": (Annotated[str, Field(json_schema_extra=RECEIVER), AfterValidator(_http_url)] | None, None),
        "expires_in": (Annotated[int, Field(ge=MIN_EXPIRES_IN_S, le=MAX_EXPIRES_IN_S), INTEGRAL] | None, None),
        "reuse": (bool, False),
    }
    return create_model(_class_name(entry), __base__=Asked, **fields)


def parameters(entry: ModelEntry) -> type[Asked]:
    """The body a client may send for a model, as a pydantic class whose limits and defaults are that row's."""
    return _parameters(entry.model_dump_json())


def bodies(catalogue: Catalogue, default_model: str) -> Any:  # noqa: ANN401 - a type form
    """All bodies `resolve` takes, as a union of one class for each model; only the default model may be left out."""
    return Union[tuple(_named(entry, entry.name == default_model) for entry in catalogue)]  # noqa: UP007 - of a list


def _named(entry: ModelEntry, default: bool) -> type[Asked]:
    model: Any = (Literal[entry.name], entry.name if default else ...)
    return create_model(_class_name(entry), __base__=parameters(entry), model=model)


def _class_name(entry: ModelEntry) -> str:
    return f"GenerateWith_{re.sub('[^a-z0-9]', '_', entry.name)}"


def _text(minimum: int, maximum: int) -> Any:  # noqa: ANN401 - a type form
    check, pattern = (_printable, PRINTABLE) if minimum else (_plain, PLAIN)
    told: dict[str, Any] = {"pattern": pattern}
    return Annotated[str, Field(min_length=minimum, max_length=maximum, json_schema_extra=told), AfterValidator(check)]


def _plain(text: str) -> str:
    if re.search(f"[{CONTROLS}]", text):
        raise ValueError("Must not contain control characters")
    return text


def _printable(text: str) -> str:
    if not text.strip():
        raise ValueError("Must not be empty")
    return _plain(text)


def _small(metadata: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode())
    except ValueError:
        raise ValueError("Must hold valid JSON in UTF-8") from None
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"Must be at most {MAX_METADATA_BYTES} bytes of JSON")
    return metadata


def _http_url(text: str) -> str:
    try:
        url = HTTP_URL.validate_python(text)
    except ValidationError:
        raise ValueError("Must be an http or https URL of at most 2083 characters") from None
    if url.username or url.password or url.fragment:
        raise ValueError("Must have neither credentials nor a fragment")
    return _plain(text)


def by_field(error: ValidationError, known: Iterable[str]) -> dict[str, list[str]]:
    """Pydantic's sentences in the API's words ("Must be …"), by field; they name the limit and never repeat the value.

    Args:
        known: names of the fields there are.
    """
    fields: dict[str, list[str]] = {}
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        name = str(next(iter(item["loc"]), "body"))  # of a key that is no text, nothing more is said
        fields.setdefault(name, []).append(_sentence(item["type"], item["msg"], known))
    return fields


def _sentence(kind: str, text: str, known: Iterable[str]) -> str:
    if kind == "extra_forbidden":
        return f"Unknown field. Known fields: {', '.join(known)}"
    if kind == "missing":
        return "Required"
    return re.sub(r"^(Value error, |(Input|String|List) should )", lambda m: "" if m[2] is None else "Must ", text)


def signature(job: JobRequest, revision: str) -> str:
    """Equal for jobs whose videos differ by nothing but the seed; `revision` is that of the model."""
    fields = ("prompt", "negative_prompt", "model", "duration_s", "quality", "fps", "aspect_ratio", "steps", "guidance")
    made_of = job.model_dump(mode="json", include=set(fields)) | {"revision": revision}
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _job(asked: dict[str, Any], user_id: str, entry: ModelEntry) -> JobRequest:
    seed = asked.pop("seed")
    del asked["reuse"]  # says how to answer, not what to make
    return JobRequest(
        job_id=new_id("job"),
        user_id=user_id,
        created_at=now(),
        model=entry.name,
        duration_s=asked.pop("duration"),
        seed=secrets.randbelow(2**32) if seed is None else seed,
        trace_id=uuid.uuid4().hex,
        **asked,
    )
