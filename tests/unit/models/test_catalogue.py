"""The catalogue that is shipped, and what is said of a wrong one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from config.catalogue import Catalogue, Family, ModelEntry
from config.errors import ConfigError
from models.loader import ADAPTERS

ROWS = list(Catalogue.load())
OPEN = [row for row in ROWS if row.source != "bundled"]
STRIDES = {
    Family.WAN: 16,
    Family.WAN_TINY: 16,
    Family.WAN_MOE: 16,
    Family.WAN_TI2V: 32,
    Family.LTX2: 32,
    Family.HUNYUAN15: 16,
    Family.COGVIDEOX: 16,
}


def test_the_bundled_model_is_the_default() -> None:
    assert ROWS[0].name == "tiny"
    assert ROWS[0].source == "bundled"


def test_every_family_has_a_row_and_an_adapter() -> None:
    assert {row.family for row in ROWS} == set(Family) == set(ADAPTERS)


@pytest.mark.parametrize("row", OPEN, ids=lambda row: row.name)
def test_revisions_are_commits(row: ModelEntry) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", row.revision)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_ask_only_for_what_the_model_can_draw(row: ModelEntry) -> None:
    assert (row.frames - 1) % row.frame_step == 0
    assert row.min_steps <= row.steps <= row.max_steps
    for ratio, size in row.sizes.items():
        assert size.width % STRIDES[row.family] == 0
        assert size.height % STRIDES[row.family] == 0
        wide, high = (int(part) for part in ratio.split(":"))
        assert size.shown[0] * high == size.shown[1] * wide, "exact after the crop"
        assert size.shown[0] <= size.width
        assert size.shown[1] <= size.height
    if row.extend == "none":
        assert round(row.max_duration_s * row.fps) <= row.frames


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("[tiny", "not valid TOML"),
        ("[tiny]\nfamily = 'sora'", r"Row \[tiny\].*family"),
        ("[tiny]\nextend = 'first-frame'", r"Row \[tiny\].*extend: Input should be 'none' or 'latent-prefix'"),
        ("tiny = 3", r"Row \[tiny\]"),
    ],
)
def test_a_wrong_catalogue_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "models.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.compile(message, re.DOTALL)):
        Catalogue.load(path)


def test_what_is_wrong_with_a_row_is_told_by_key_and_not_by_value(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text("[mine]\nframes = 's3cret'\n")
    with pytest.raises(ConfigError) as raised:
        Catalogue.load(path)
    told = str(raised.value)
    assert "frames: Input should be a valid integer" in told and "source: Field required" in told
    assert "http" not in told and "s3cret" not in told


def test_a_missing_catalogue_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"models\.toml.*T2M_MODELS__CATALOGUE"):
        Catalogue.load(tmp_path / "models.toml")


def test_an_unknown_model_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'sora'.*tiny, wan2\.1-1\.3b"):
        Catalogue.load().get("sora")


@pytest.mark.parametrize("module", ["config.catalogue", "models.contract", "models.weights", "models.errors"])
def test_what_others_read_imports_no_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
