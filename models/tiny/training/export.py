"""Write the model as a diffusers pipeline in half precision, never leaving a folder half written."""

import copy
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from transformers import UMT5EncoderModel

from config.catalogue import Catalogue
from models.tiny import architecture
from models.weights import BUNDLED, write_lock

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"


@dataclass(frozen=True, slots=True)
class Trained:
    """What weights cost: steps, and seconds of wall clock, of the autoencoder and of the denoiser with its texts."""

    vae_steps: int = 0
    vae_s: float = 0.0
    denoiser_steps: int = 0
    denoiser_s: float = 0.0

    def write(self, folder: Path) -> None:
        """Keep it beside the weights, so that a training that goes on from them alone goes on counting."""
        (folder / "training.json").write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Trained":
        """What the weights in `folder` cost."""
        return cls(**json.loads((folder / "training.json").read_text()))


def export(
    vae: AutoencoderKLWan,
    denoiser: WanTransformer3DModel,
    text_encoder: UMT5EncoderModel,
    trained: Trained,
    target: Path = WEIGHTS,
) -> None:
    """Save all parts under `target`: written beside it first, then swapped in by two renames."""
    pipeline = WanPipeline(
        tokenizer=architecture.new_tokenizer(),
        text_encoder=copy.deepcopy(text_encoder).half(),
        vae=copy.deepcopy(vae).half(),
        scheduler=architecture.new_scheduler(),
        transformer=copy.deepcopy(denoiser).half(),
    )
    part, old = target.with_name(target.name + ".part"), target.with_name(target.name + ".old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    pipeline.save_pretrained(part, safe_serialization=True)
    trained.write(part)
    write_lock(part, BUNDLED, Catalogue.load().get("tiny").revision)
    if target.exists():
        target.rename(old)
    part.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def plain_vae(state: dict[str, torch.Tensor], mean: list[float], std: list[float]) -> AutoencoderKLWan:
    """The autoencoder of a checkpoint with the library's own chunked forward and latent statistics."""
    vae = architecture.new_vae(mean, std)
    vae.load_state_dict(state)
    return vae.eval()
