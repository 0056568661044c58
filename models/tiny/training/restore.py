"""Go on from exported weights alone: make of them the state that a training leaves behind."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5EncoderModel

from models.tiny.training import state
from models.tiny.training.denoiser import Model
from models.tiny.training.export import Trained


def restore(weights: Path) -> None:
    """Write `vae.pt`, `statistics.pt` and `denoiser.pt` from the pipeline folder `weights`, in single precision.

    The optimizers' momentum is not in the weights: both parts start with none. Steps and time count on.

    Raises:
        SystemExit: the training folder has a state already, which this would overwrite.
    """
    folder = state.folder()
    kept = [name for name in ("vae.pt", "statistics.pt", "denoiser.pt") if (folder / name).exists()]
    if kept:
        raise SystemExit(f"{folder} has {', '.join(kept)} already: go on from those, or set T2M_TRAIN_DIR to a new one")
    vae = AutoencoderKLWan.from_pretrained(weights / "vae", torch_dtype=torch.float32)
    model = Model()
    for part, kind, name in (
        (model.denoiser, WanTransformer3DModel, "transformer"),
        (model.text_encoder, UMT5EncoderModel, "text_encoder"),
    ):
        part.load_state_dict(kind.from_pretrained(weights / name, dtype=torch.float32).state_dict())
    trained = Trained.read(weights)
    for path, params, step, spent_s in (
        ("vae.pt", vae.state_dict(), trained.vae_steps, trained.vae_s),
        ("denoiser.pt", model.state_dict(), trained.denoiser_steps, trained.denoiser_s),
    ):
        state.save(folder / path, {"model": params, "average": params, "step": step, "spent_s": spent_s})
    mean, std = list(vae.config.latents_mean), list(vae.config.latents_std)
    state.save(folder / "statistics.pt", {"mean": mean, "std": std})
