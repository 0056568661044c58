"""A training goes on from exported weights alone, in the precision the CPU is good at."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from models.tiny import architecture
from models.tiny.training import export, precision, run, state
from models.tiny.training.denoiser import Model
from models.tiny.training.restore import restore


def test_exported_weights_alone_are_enough_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    model, vae = Model(), architecture.new_vae([0.25] * 32, [1.5] * 32)
    export.export(vae, model.denoiser, model.text_encoder, export.Trained(7, 60, 9, 90), tmp_path / "first")
    monkeypatch.setenv("T2M_TRAIN_DIR", str(tmp_path / "state"))

    restore(tmp_path / "first")
    run.export_best(tmp_path / "second")

    names = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.safetensors"))
    assert len(names) == 3
    assert export.Trained.read(tmp_path / "second") == export.Trained(7, 60, 9, 90)
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    again = AutoencoderKLWan.from_pretrained(tmp_path / "second" / "vae")
    assert list(again.config.latents_mean) == [0.25] * 32
    assert list(again.config.latents_std) == [1.5] * 32


def test_the_bundled_weights_fit_the_training_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2M_TRAIN_DIR", str(tmp_path))
    restore(export.WEIGHTS)
    trained = export.Trained.read(export.WEIGHTS)
    assert trained.vae_steps > 0
    assert (state.load(tmp_path / "denoiser.pt") or {})["step"] == trained.denoiser_steps > 0


def test_a_state_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2M_TRAIN_DIR", str(tmp_path))
    state.save(tmp_path / "vae.pt", {"step": 5})
    with pytest.raises(SystemExit, match=r"vae\.pt already"):
        restore(export.WEIGHTS)
    assert state.load(tmp_path / "vae.pt") == {"step": 5}


@pytest.mark.parametrize("fast", [True, False])
def test_half_precision_only_where_the_cpu_has_it(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with precision.autocast():
        made = torch.ones(2, 2) @ torch.ones(2, 2)
    assert made.dtype == precision.matrices() == (torch.bfloat16 if fast else torch.float32)


def test_an_autoencoder_that_had_its_minutes_is_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2M_TRAIN_DIR", str(tmp_path))
    state.save(tmp_path / "vae.pt", {"step": 5, "spent_s": 90 * 60.0})
    encoded = tmp_path / "stills" / "000000.pt"
    encoded.parent.mkdir()
    encoded.touch()
    run.train_autoencoder(Namespace(vae_minutes=90.0, workers=1))
    assert encoded.exists()
    assert state.load(tmp_path / "vae.pt") == {"step": 5, "spent_s": 90 * 60.0}


@pytest.mark.long
def test_with_another_autoencoder_all_is_encoded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2M_TRAIN_DIR", str(tmp_path))
    restore(export.WEIGHTS)
    encoded = tmp_path / "stills" / "000000.pt"
    encoded.parent.mkdir()
    encoded.touch()
    before = state.load(tmp_path / "vae.pt") or {}
    run.train_autoencoder(Namespace(vae_minutes=run.trained_minutes() + 0.02, workers=2, compile=False))
    after = state.load(tmp_path / "vae.pt") or {}
    assert after["step"] > before["step"]
    assert any((after["model"][name] != before["model"][name]).any() for name in before["model"])
    assert not encoded.exists()
    assert not (tmp_path / "statistics.pt").exists()
