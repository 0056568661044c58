"""Settings: a TOML file for the shape of the deployment, environment variables (`T2M_…`) on top.

`T2M_CONFIG` names the file (or "embedded", the default, or "production"). Nested keys use two underscores in the
environment: `T2M_BROKER__URL=amqp://…`. Unknown keys are refused by name. Secrets are `SecretStr` and never printed.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self, get_origin

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)
from typing_extensions import TypeIs

from config.errors import ConfigError

PREFIX = "T2M_"
ELSEWHERE = ("T2M_CONFIG", "T2M_TRAIN_DIR")
"""Variables that are read, and are no settings."""
SHAPES = {name: Path(__file__).with_name(f"{name}.toml") for name in ("embedded", "production")}


def _url_of(*schemes: str, optional: bool = False) -> AfterValidator:
    """Refuses a secret URL of another scheme without repeating it, as it may hold a password."""

    def check(url: SecretStr) -> SecretStr:
        value = url.get_secret_value()
        if not value.startswith(schemes) and (value or not optional):
            raise ValueError(f"a URL must start with {' or '.join(schemes)}")
        return url

    return AfterValidator(check)


class Section(BaseModel):
    """A table of the settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BrokerSettings(Section):
    """`memory://` runs the actors in this process; `amqp[s]://user:password@host:port/vhost` is RabbitMQ."""

    url: Annotated[SecretStr, _url_of("memory://", "amqp://", "amqps://")] = SecretStr("memory://")
    queue_type: Literal["classic", "quorum"] = "classic"


class StoreSettings(Section):
    """`file` keeps objects under `data_dir`/store; `s3` speaks to any S3 server that honours conditional writes."""

    kind: Literal["file", "s3"] = "file"
    endpoint: str = ""
    """host:port of the S3 server, without scheme."""
    secure: bool = True
    bucket: str = "t2m"
    region: str = "us-east-1"
    access_key: SecretStr = SecretStr("")
    secret_key: SecretStr = SecretStr("")

    @field_validator("endpoint")
    @classmethod
    def _without_scheme(cls, endpoint: str) -> str:
        if "/" in endpoint:
            raise ValueError("must be host:port without a scheme or path; `secure` chooses between https and http")
        return endpoint

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "s3" and not self.endpoint:
            raise ValueError("`endpoint` (host:port) is needed when `kind` is s3")
        if bool(self.access_key.get_secret_value()) != bool(self.secret_key.get_secret_value()):
            raise ValueError("`access_key` and `secret_key` go together")
        return self


class DatabaseSettings(Section):
    """SQLAlchemy async URL; empty means SQLite at `data_dir`/t2m.db. Only the gateway uses it."""

    url: Annotated[SecretStr, _url_of("sqlite+aiosqlite://", "postgresql+asyncpg://", optional=True)] = SecretStr("")


class RedisSettings(Section):
    """`redis://…`, or empty for memory of this process. Only the gateway uses it."""

    url: Annotated[SecretStr, _url_of("redis://", "rediss://", optional=True)] = SecretStr("")


class ModelSettings(Section):
    """Which models there are, where their weights lie and what runs them."""

    catalogue: Path = Path(__file__).with_name("models.toml")
    weights: str = ""
    """A local folder or `s3://bucket/prefix` that holds pulled weights; bundled models need none."""
    cache: Path = Path("~/.cache/t2m/weights")
    """Local folder for weights when `weights` is empty or in a store; workers fetch into it before they load."""
    default: str = "tiny"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class EncodeSettings(Section):
    """How renditions are encoded."""

    codec: Literal["h264", "av1"] = "h264"
    encoder: Literal["auto", "libx264", "h264_nvenc", "libsvtav1"] = "auto"
    """auto: h264_nvenc where a GPU has it, else libx264 (libsvtav1 when codec is av1)."""


class WorkerSettings(Section):
    """Life and measurement of a worker process."""

    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9191
    heartbeat_s: Annotated[float, Field(gt=0)] = 5.0
    grace_s: Annotated[float, Field(gt=0)] = 25.0
    """Time to finish or hand back after SIGTERM."""
    hang_s: Annotated[float, Field(gt=0)] = 900.0
    """A child that reports nothing for this long is killed."""
    notice_url: str = ""
    """Metadata address that tells of a spot machine's end, such as Google's
    http://metadata.google.internal/computeMetadata/v1/instance/preempted; a notice drains the worker like SIGTERM."""
    checkpoint_s: Annotated[float, Field(ge=0)] = 30.0
    """Denoising is never this much time and `checkpoint_steps` steps ahead of a checkpoint that is kept."""
    checkpoint_steps: Annotated[int, Field(ge=1)] = 2
    lease_s: Annotated[float, Field(gt=0)] = 600.0
    """Longest time one message is held by a render, up to the end of a step; then it is handed on. Well below
    RabbitMQ's `consumer_timeout`, with room for decoding a clip."""

    @property
    def lease(self) -> timedelta:
        """`lease_s` as a duration."""
        return timedelta(seconds=self.lease_s)


class AuthSettings(Section):
    """Who may ask; see `gateway/auth/`."""

    provider: Literal["local", "oidc", "clerk"] = "local"
    """local: tokens of `t2m token`; oidc: of any OpenID Connect issuer; clerk: of Clerk."""
    key_file: Path | None = None
    """PEM of the Ed25519 key that signs tokens, shared by all gateways. Default: `data_dir`/auth-key.pem, made anew."""
    issuer: str = ""
    """`iss` of the tokens, letter for letter; keys are found from it. Clerk's is the Frontend API URL."""
    audience: tuple[str, ...] = ()
    """Accepted `aud`, one of which a token must name; oidc needs some."""
    authorized_parties: tuple[str, ...] = ()
    """Accepted `azp`, for clerk the origins of one's own pages; empty accepts any."""
    role_claim: str = "role"
    """Where a token of oidc or clerk names roles, with dots for claims within claims: `metadata.role`."""
    admin_role: str = "admin"
    leeway_s: Annotated[float, Field(ge=0, le=300)] = 5.0
    """How far an issuer's clock may be off."""
    clerk_api: AnyHttpUrl = AnyHttpUrl("https://api.clerk.com/v1")
    clerk_secret_key: SecretStr = SecretStr("")
    """Lets the gateway read profiles."""

    @field_validator("issuer")
    @classmethod
    def _private(cls, issuer: str) -> str:
        local = ("http://127.0.0.1:", "http://localhost:")
        if issuer and not issuer.startswith(("https://", *local)):
            raise ValueError("must start with https://, or its keys could be exchanged on their way")
        return issuer

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.provider != "local" and not self.issuer:
            raise ValueError(f"`issuer` is needed when `provider` is {self.provider}")
        if self.provider == "oidc" and not self.audience:
            raise ValueError("`audience` is needed when `provider` is oidc: tokens for others must not pass")
        if self.provider == "clerk" and not self.clerk_secret_key.get_secret_value():
            raise ValueError("`clerk_secret_key` is needed when `provider` is clerk")
        return self


class SafetySettings(Section):
    """What must not be made; see `pipeline/safety.py`."""

    hook: Annotated[str, Field(pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*)?$")] = ""
    """package.module:Class that is asked before a job is queued and before it is published; empty: nobody is."""


class LimitSettings(Section):
    """What a user may ask for in an hour, or a client address where no user is known; `t2m user limit` sets others."""

    general: Annotated[int, Field(ge=0)] = 1000
    """Requests, other than those for the system's state and for signed media."""
    system: Annotated[int, Field(ge=0)] = 500
    uploads: Annotated[int, Field(ge=0)] = 100
    jobs: Annotated[int, Field(ge=0)] = 10


class GatewaySettings(Section):
    """The HTTP server and its background roles."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    public_url: AnyHttpUrl | None = None
    """How clients reach the gateway; links start with it. Default: in answers the request's own host, in webhooks the
    address the gateway listens on."""
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    """Networks whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    roles: tuple[Literal["api", "dispatcher", "projector", "webhooks"], ...] = (
        "api",
        "dispatcher",
        "projector",
        "webhooks",
    )
    cors_origins: tuple[str, ...] = ()
    """Origins (`https://app.example.com`) whose pages may call the API from a browser; "*" for all."""
    retention_days: Annotated[float, Field(gt=0)] | None = None
    """Jobs and their videos are removed so long after their end; None keeps them until they are deleted."""
    stream_token_s: Annotated[float, Field(gt=0)] = 24 * 3600.0
    """How long the token in a playlist's URIs is good; asking for the playlist again renews it."""
    max_in_flight_per_worker: Annotated[int, Field(ge=1)] = 2
    """Jobs released to the broker per live worker of a model."""


class FileSettings(Section):
    """What users may upload, and how long it is kept."""

    max_bytes: Annotated[int, Field(ge=1)] = 5 << 30
    """Of one file."""
    quota_bytes: Annotated[int, Field(ge=1)] = 50 << 30
    """Of all files a user has uploaded; files with the same content count each."""
    max_batch: Annotated[int, Field(ge=1, le=100)] = 20
    """Files in one batch."""
    retention_days: Annotated[float, Field(gt=0)] | None = None
    """Files are removed so long after their upload; None keeps them until they are deleted."""
    sweep_grace_hours: Annotated[float, Field(ge=12)] = 24.0
    """Stored bytes that nothing refers to are removed after this time; longer than any stage of a job takes."""
    signed_url_max_s: Annotated[int, Field(ge=60)] = 7 * 24 * 3600
    """Longest validity of a signed URL."""
    inspections: Annotated[int, Field(ge=1)] = 2
    """Uploaded files looked into at the same time, each by a process of its own with at most one processor."""


class WebhookSettings(Section):
    """Which receivers may be called, and how patiently."""

    allow_http: bool = False
    """Also call receivers without TLS."""
    allowed_networks: tuple[IPvAnyNetwork, ...] = ()
    """Private networks whose receivers may be called, as of an intranet; public addresses always may."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 15.0
    """A receiver answers within this time, or the attempt failed."""
    lease_s: Annotated[float, Field(gt=0)] = 15.0
    """How much longer than `timeout_s` a delivery belongs to the gateway that sends it; then another one does."""
    retries_s: tuple[Annotated[float, Field(ge=0)], ...] = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 21600, 36000)
    """Pauses after failed attempts, with jitter on top, about a day together; after the last it is given up."""
    concurrency: Annotated[int, Field(ge=1)] = 256
    """Deliveries under way at once in one process."""
    per_receiver: Annotated[int, Field(ge=1)] = 4
    """Of them, to one receiver of one user."""
    keep_days: Annotated[int, Field(ge=1)] = 30
    """How long the delivery log goes back."""


class LogSettings(Section):
    """JSON for machines, console for people."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["json", "console"] = "json"


class Settings(BaseSettings):
    """Everything a deployment can set; see `config/embedded.toml` and `config/production.toml`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    data_dir: Path = Path("data")
    broker: BrokerSettings = BrokerSettings()
    store: StoreSettings = StoreSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    models: ModelSettings = ModelSettings()
    encode: EncodeSettings = EncodeSettings()
    worker: WorkerSettings = WorkerSettings()
    auth: AuthSettings = AuthSettings()
    safety: SafetySettings = SafetySettings()
    limits: LimitSettings = LimitSettings()
    gateway: GatewaySettings = GatewaySettings()
    files: FileSettings = FileSettings()
    webhooks: WebhookSettings = WebhookSettings()
    log: LogSettings = LogSettings()

    @property
    def embedded(self) -> bool:
        """True when broker and bus live in this process."""
        return self.broker.url.get_secret_value().startswith("memory:")

    @property
    def database_url(self) -> str:
        """SQLAlchemy async URL with SQLite's place filled in; holds the password."""
        return self.database.url.get_secret_value() or f"sqlite+aiosqlite:///{self.data_dir.absolute() / 't2m.db'}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, which wins over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_path())


def config_path() -> Path:
    """The TOML file in force: `T2M_CONFIG` as a path or one of the shapes "embedded" and "production"."""
    name = os.environ.get("T2M_CONFIG") or "embedded"
    return SHAPES.get(name) or Path(name)


def load(**overrides: object) -> Settings:
    """Read the settings; `overrides` (from command-line options) win over everything, but for those that are None.

    Raises:
        ConfigError: names each wrong key with what it accepts, never its value.
    """
    path = config_path()
    _refuse_unknown_variables()
    try:
        path.open("rb").close()
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except OSError as error:
        raise ConfigError(
            f"Cannot read the settings file {path}: {error.strerror}.",
            remedy=f"T2M_CONFIG takes a path or one of: {', '.join(SHAPES)}.",
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The settings file {path} is not valid TOML: {error}.") from error
    except ValidationError as error:
        raise ConfigError(_explain(error), remedy=f"Read from the environment and {path}.") from None
    except SettingsError as error:
        raise ConfigError(
            f"Not valid JSON: {' or '.join(_undecodable())}.", remedy="""Lists are written as '["a", "b"]'."""
        ) from error


def variables() -> tuple[str, ...]:
    """Names of all environment variables that are read, in the order of the settings."""
    return tuple(_variable(location) for location, _ in _fields())


def listing(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Key, value and environment variable of every setting; secrets masked."""
    for location, annotation in _fields():
        if not _is_table(annotation):
            value = functools.reduce(getattr, location, settings)
            yield ".".join(location), str(value), _variable(location)


def _variable(location: tuple[str, ...]) -> str:
    return PREFIX + "__".join(location).upper()


def _fields(model: type[BaseModel] = Settings, table: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Location and type of every setting, tables before what they hold."""
    for name, field in model.model_fields.items():
        yield (*table, name), field.annotation
        if _is_table(field.annotation):
            yield from _fields(field.annotation, (*table, name))


def _is_table(annotation: object) -> TypeIs[type[Section]]:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _refuse_unknown_variables() -> None:
    known = {*ELSEWHERE, *variables()}
    for name in sorted(name.upper() for name in os.environ if name.upper().startswith(PREFIX)):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise ConfigError(
                f"There is no setting for the environment variable {name}.",
                remedy=f"Did you mean {' or '.join(near)}?" if near else "`t2m config show` lists all settings.",
            )


def _undecodable() -> Iterator[str]:
    """Variables whose value is no JSON, of the settings that need it: lists and whole tables."""
    for location, annotation in _fields():
        if _is_table(annotation) or get_origin(annotation) is tuple:
            try:
                json.loads(os.environ.get(_variable(location), "null"))
            except ValueError:
                yield _variable(location)


def _explain(error: ValidationError) -> str:
    return " ".join(f"{_key(problem['loc'])}: {_accepted(problem)}." for problem in error.errors(include_url=False))


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _accepted(problem: ErrorDetails) -> str:
    """What is wrong in words that never hold the value."""
    if problem["type"] == "extra_forbidden":
        return f"there is no such setting; there are {', '.join(_siblings(problem['loc']))}"
    return problem["msg"].removeprefix("Value error, ").rstrip(".")


def _siblings(location: tuple[int | str, ...]) -> Iterator[str]:
    return (known[-1] for known, _ in _fields() if known[:-1] == location[:-1])
