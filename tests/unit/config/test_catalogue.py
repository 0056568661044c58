from __future__ import annotations

from pathlib import Path

import pytest

from config.catalogue import Catalogue
from config.errors import ConfigError


def refused(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        Catalogue.load(path)
    return str(raised.value)


def test_what_is_wrong_with_a_row_is_told_by_key(tmp_path: Path):
    told = refused(tmp_path / "models.toml", '[mine]\nfamily = "wan"\nframes = "secret"\n')
    assert (
        "Row [mine]" in told and "frames: Input should be a valid integer" in told and "source: Field required" in told
    )
    assert "http" not in told and "input_value" not in told


def test_a_model_that_is_no_table_is_told(tmp_path: Path):
    assert "mine in" in refused(tmp_path / "models.toml", "mine = 3\n")


def test_a_catalogue_that_is_not_there_is_told_with_its_setting(tmp_path: Path):
    with pytest.raises(ConfigError, match="T2M_MODELS__CATALOGUE"):
        Catalogue.load(tmp_path / "none.toml")
