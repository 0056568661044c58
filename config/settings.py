"""Settings: a TOML file for the shape of the deployment, environment variables (`T2M_…`) on top.

`T2M_CONFIG` names the file, `config/embedded.toml` is the default. Nested keys use two underscores in the environment:
`T2M_BROKER__URL=amqp://…`. Unknown keys are refused by name. Secrets are `SecretStr` and never printed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from config.errors import ConfigError

EMBEDDED = Path(__file__).with_name("embedded.toml")
PRODUCTION = Path(__file__).with_name("production.toml")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BrokerSettings(Section):
    """`memory://` runs the actors in this process; `amqp[s]://user:password@host:port/vhost` is RabbitMQ."""

    url: SecretStr = SecretStr("memory://")
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


class DatabaseSettings(Section):
    """SQLAlchemy async URL; empty means SQLite at `data_dir`/t2m.db. Only the gateway uses it."""

    url: SecretStr = SecretStr("")


class RedisSettings(Section):
    """`redis://…`, or empty for memory of this process. Only the gateway uses it."""

    url: SecretStr = SecretStr("")


class ModelSettings(Section):
    catalogue: Path = Path(__file__).with_name("models.toml")
    weights: str = ""
    """A local folder or `s3://bucket/prefix` that holds pulled weights; bundled models need none."""
    default: str = "tiny"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class EncodeSettings(Section):
    codec: Literal["h264", "av1"] = "h264"
    encoder: Literal["auto", "libx264", "h264_nvenc", "libsvtav1"] = "auto"
    """auto: h264_nvenc where a GPU has it, else libx264 (libsvtav1 when codec is av1)."""


class WorkerSettings(Section):
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9191
    heartbeat_s: Annotated[float, Field(gt=0)] = 5.0
    grace_s: Annotated[float, Field(gt=0)] = 25.0
    """Time to finish or hand back after SIGTERM."""
    hang_s: Annotated[float, Field(gt=0)] = 900.0
    """A child that reports nothing for this long is killed."""


class GatewaySettings(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    public_url: AnyHttpUrl | None = None
    """How clients reach the gateway; links in answers start with it. Default: the request's own host."""
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    """Networks whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    roles: tuple[Literal["api", "dispatcher", "projector"], ...] = ("api", "dispatcher", "projector")
    max_in_flight_per_worker: Annotated[int, Field(ge=1)] = 2
    """Jobs released to the broker per live worker of a model."""


class LogSettings(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["json", "console"] = "json"


class Settings(BaseSettings):
    """Everything a deployment can set; see `config/embedded.toml` and `config/production.toml`."""

    model_config = SettingsConfigDict(
        env_prefix="T2M_", env_nested_delimiter="__", extra="forbid", frozen=True, nested_model_default_partial_update=True
    )

    data_dir: Path = Path("data")
    broker: BrokerSettings = BrokerSettings()
    store: StoreSettings = StoreSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    models: ModelSettings = ModelSettings()
    encode: EncodeSettings = EncodeSettings()
    worker: WorkerSettings = WorkerSettings()
    gateway: GatewaySettings = GatewaySettings()
    log: LogSettings = LogSettings()

    @property
    def embedded(self) -> bool:
        """True when broker and bus live in this process."""
        return self.broker.url.get_secret_value().startswith("memory:")

    @property
    def database_url(self) -> str:
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
        path = Path(os.environ.get("T2M_CONFIG") or EMBEDDED)
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)


def load(**overrides: object) -> Settings:
    """Read the settings; `overrides` (from command-line options) win over everything.

    Raises:
        ConfigError: names each wrong key with what it accepts, never its value.
    """
    raise ConfigError("unfinished")  # completed with the CLI
