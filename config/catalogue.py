"""The model catalogue: `models.toml` read into typed rows. Imports no torch, so the gateway may use it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config.errors import ConfigError

DEFAULT_PATH = Path(__file__).with_name("models.toml")


class Family(StrEnum):
    """Which diffusers pipeline classes and which adapter in `models/families/` a row uses."""

    WAN = "wan"
    WAN_TINY = "wan-tiny"
    WAN_TI2V = "wan-ti2v"
    WAN_MOE = "wan-moe"
    LTX2 = "ltx2"
    HUNYUAN15 = "hunyuan15"
    COGVIDEOX = "cogvideox"


class Size(BaseModel):
    """Pixels a model draws for one aspect ratio, and what is kept of them.

    `width` × `height` is what the pipeline is asked for (multiples of the model's stride); `keep` (width, height) is
    the centred part that is shown, where the aspect ratio needs a crop to be exact; both even unless upscaled later.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Annotated[int, Field(ge=16)]
    height: Annotated[int, Field(ge=16)]
    keep: tuple[int, int] | None = None

    @property
    def shown(self) -> tuple[int, int]:
        """(width, height) in pixels after the crop."""
        return self.keep or (self.width, self.height)


class ModelEntry(BaseModel):
    """One row of the catalogue. Times in seconds, rates in Hz, memory in GiB.

    Attributes:
        source: "bundled", or the hub repository the weights are pulled from.
        revision: commit of that repository; bundled weights carry their own version.
        sizes: per aspect ratio ("16:9"), the native size; the first is the default.
        frames: native length of one window in frames.
        frame_step: a valid count is 1 + k × frame_step.
        fps: the rate the model draws at.
        output_fps: default rate of the renditions; frames between native ones are interpolated by motion.
        steps: default; a client may ask for `min_steps` to `max_steps`.
        low_noise_guidance: of "wan-moe", the share of the guidance that its expert of low noise works with.
        extend: how a clip grows past `frames`: "none" (refused), or "latent-prefix": by windows that start with clean
            latents of the one before.
        max_duration_s: longest clip accepted.
        purpose: one line for `t2m models list` and `GET /models`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    family: Family
    purpose: str
    source: str
    revision: str
    licence: str
    dtype: Literal["float32", "bfloat16", "float16"]
    sizes: Annotated[Mapping[str, Size], Field(min_length=1)]
    frames: Annotated[int, Field(ge=1)]
    frame_step: Annotated[int, Field(ge=1)]
    fps: Annotated[float, Field(gt=0)]
    output_fps: Annotated[int, Field(ge=1, le=60)]
    steps: Annotated[int, Field(ge=1)]
    min_steps: Annotated[int, Field(ge=1)] = 1
    max_steps: Annotated[int, Field(ge=1)] = 100
    guidance: Annotated[float, Field(ge=1)]
    low_noise_guidance: Annotated[float, Field(gt=0, le=1)] = 1.0
    flow_shift: float | None = None
    vram_gib: float
    extend: Literal["none", "latent-prefix"]
    max_duration_s: Annotated[float, Field(gt=0, le=60)]
    audio: bool = False
    max_prompt_chars: Annotated[int, Field(ge=1)] = 2000

    @property
    def queue(self) -> str:
        """Name of this model's own queue, so that GPU pools scale apart."""
        return f"render.{self.name}"

    @property
    def aspect_ratios(self) -> tuple[str, ...]:
        """Accepted aspect ratios, the default first."""
        return tuple(self.sizes)


class Catalogue:
    """All rows by name; `models.default` says which is meant where none is named."""

    def __init__(self, entries: Mapping[str, ModelEntry]) -> None:
        self._entries = dict(entries)

    @classmethod
    def load(cls, path: Path = DEFAULT_PATH) -> Catalogue:
        """Read a `models.toml`.

        Raises:
            ConfigError: the file is missing, is no TOML, or a row has a wrong key or value; names the row and the key.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"Cannot read the model catalogue {path}: {error.strerror}.",
                remedy="Set `models.catalogue` (T2M_MODELS__CATALOGUE).",
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"The model catalogue {path} is not valid TOML: {error}.") from error
        entries = {}
        for name, row in tables.items():
            try:
                entries[name] = ModelEntry(name=name, **row)
            except ValidationError as error:
                raise ConfigError(f"Row [{name}] of {path} is wrong: {_explain(error)}") from error
            except TypeError as error:
                raise ConfigError(f"Row [{name}] of {path} is no table of its own.") from error
        if not entries:
            raise ConfigError(f"The model catalogue {path} is empty.", remedy="Add at least one [model] table.")
        return cls(entries)

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self._entries.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all rows, in the order of the file."""
        return tuple(self._entries)

    def get(self, name: str) -> ModelEntry:
        """The row called `name`.

        Raises:
            ConfigError: there is none; lists those there are.
        """
        try:
            return self._entries[name]
        except KeyError:
            raise ConfigError(
                f"There is no model {name!r}.", remedy=f"Known models: {', '.join(self._entries)}."
            ) from None


def _explain(error: ValidationError) -> str:
    wrong = error.errors(include_url=False, include_context=False, include_input=False)
    return " ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}." for problem in wrong)
