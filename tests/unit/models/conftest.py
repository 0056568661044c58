"""Shrunken models of every family, saved once, loaded through the catalogue's own path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from config.catalogue import ModelEntry
from config.settings import ModelSettings
from models import loader
from models.model import LoadedModel
from tests.unit.models import shrunken, shrunken_others

ROWS: dict[str, tuple[Callable[[], object], ModelEntry]] = {
    "wan": (shrunken.wan, shrunken.entry("wan")),
    "wan-ti2v": (lambda: shrunken.wan(patch_size=2, expand_timesteps=True), shrunken.entry("wan-ti2v")),
    "wan-moe": (lambda: shrunken.wan(experts=2), shrunken.entry("wan-moe", low_noise_guidance=0.75)),
    "long": (
        lambda: shrunken.wan(patch_size=2),
        shrunken.entry("wan", name="shrunken-long", extend="latent-prefix", max_duration_s=60),
    ),
    "cogvideox": (shrunken_others.cogvideox, shrunken.entry("cogvideox", flow_shift=None)),
    "hunyuan15": (shrunken_others.hunyuan15, shrunken.entry("hunyuan15", flow_shift=None)),
    "ltx2": (shrunken_others.ltx2, shrunken.entry("ltx2", flow_shift=None, frame_step=8, fps=24, audio=True)),
}


def saved(name: str, root: Path) -> ModelEntry:
    """The catalogue row of a model, whose weights are in `root` from now on."""
    build, entry = ROWS[name]
    if not (root / f"{entry.name}@{entry.revision}").exists():
        shrunken.save(build(), entry, root)
    return entry


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadedModel]:
    """`models(row)`: saved, locked and loaded when first asked for."""
    root = tmp_path_factory.mktemp("weights")
    settings = ModelSettings(weights=str(root), device="cpu")

    def get(name: str) -> LoadedModel:
        model = loader.load(saved(name, root), settings)
        assert isinstance(model, LoadedModel)
        return model

    return get


@pytest.fixture
def saved_wan(tmp_path: Path) -> tuple[ModelEntry, Path, ModelSettings]:
    """A folder of weights of this test's own, to be damaged: its row, the folder, and settings that lead there."""
    entry = shrunken.entry("wan", name="own")
    folder = shrunken.save(shrunken.wan(), entry, tmp_path)
    return entry, folder, ModelSettings(weights=str(tmp_path), device="cpu")
