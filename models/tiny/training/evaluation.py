"""Measure the exported model on what it never saw, write the card's figures and a contact sheet.

Runs the plain pipeline from the weights folder, nothing else, so the figures are those a user gets.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from PIL import Image

from config.catalogue import Catalogue
from models.tiny import architecture
from models.tiny.training import card, full_sequence, measure, precision, promises, state, vae
from models.tiny.training.data.captions import caption
from models.tiny.training.data.clips import clip, random_spec
from models.tiny.training.export import WEIGHTS
from models.tiny.words import WORDS

EVALUATION_SEED = 950_000_000
ATTRIBUTES = ("colour", "direction", "background", "shape")
SHEET_PROMPTS = (
    "a beautiful sunset over mountains",
    "a pink sunset over the sea",
    "sunset over the desert",
    "a golden sunset over mountains",
    "sunrise over mountains",
    "sunrise over the sea",
    "a purple sunset behind mountains",
    "morning sun rising over the desert",
    "waves rolling on the sea",
    "waves at night under the moon",
    "snow falling on the forest",
    "snow falling on the city",
    "rain falling on the city",
    "rain falling on the forest",
    "clouds drifting left over green hills",
    "clouds over green hills",
    "red fireworks in the night sky",
    "fireworks over the city",
    "stars over a lake",
    "stunning stars twinkling over the lake",
    "a red ball bouncing over the meadow",
    "a blue ball bouncing on a white background",
)


def load(folder: Path = WEIGHTS) -> WanPipeline:
    """The plain pipeline, in single precision."""
    pipeline = WanPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: WanPipeline, prompts: list[str], seed: int, steps: int, guidance: float) -> np.ndarray:
    """Clips (count, 17, 64, 112, 3) in 0..1 for prompts, all from one seed."""
    with precision.autocast():
        latents = pipeline(
            prompts,
            height=architecture.HEIGHT,
            width=architecture.WIDTH,
            num_frames=architecture.FRAMES,
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="latent",
            generator=torch.Generator().manual_seed(seed),
        ).frames
    config = pipeline.vae.config
    shape = (1, -1, 1, 1, 1)
    latents = latents.float() * torch.tensor(config.latents_std).view(shape) + torch.tensor(config.latents_mean).view(
        shape
    )
    with torch.no_grad(), precision.autocast():
        clips = [pipeline.vae.decode(one[None]).sample[0].float() for one in latents]
    return torch.stack(clips).permute(0, 2, 3, 4, 1).add(1).div(2).clamp(0, 1).numpy()


def autoencoder(pipeline: WanPipeline) -> AutoencoderKLWan:
    """The stored autoencoder, running over whole sequences."""
    model = architecture.new_vae()
    model.load_state_dict(pipeline.vae.state_dict())
    return full_sequence.as_full_sequence(model.eval())


@torch.no_grad()
def through(model: AutoencoderKLWan, frames: np.ndarray) -> np.ndarray:
    """A clip of bytes (frames, 64, 112, 3) encoded and decoded, in 0..1."""
    with precision.autocast():
        mean, _ = full_sequence.encode(model, vae.to_tensor(frames)[None])
        made = full_sequence.decode(model, mean)[0].float()
    return made.permute(1, 2, 3, 0).add(1).div(2).clamp(0, 1).numpy()


def accuracy(pipeline: WanPipeline, count: int, steps: int, guidance: float, batch: int = 8) -> dict[str, float]:
    """Share of clips of held-out combinations that show what was asked, for each attribute and for all four."""
    rng = np.random.default_rng(EVALUATION_SEED)
    hits: dict[str, list[bool]] = {name: [] for name in (*ATTRIBUTES, "all")}
    for start in range(0, count, batch):
        specs = [random_spec(rng, "shape", evaluation=True) for _ in range(min(batch, count - start))]
        made = generate(pipeline, [caption(spec, rng) for spec in specs], EVALUATION_SEED + start, steps, guidance)
        for spec, one in zip(specs, made, strict=True):
            seen = measure.read(one)
            right = {name: seen[name] == getattr(spec, name) for name in ATTRIBUTES}
            for name in ATTRIBUTES:
                hits[name].append(right[name])
            hits["all"].append(all(right.values()))
    return {name: round(float(np.mean(values)), 4) for name, values in hits.items()}


def accuracy_on_drawn(count: int, shown: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    """The same reading of clips that were drawn, not generated, as `shown` makes clips in 0..1 of their bytes.

    Shown as they are, it says what the measure is worth; by the autoencoder, what no denoiser can do better.
    """
    hits: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    found = 0
    seed = EVALUATION_SEED
    while found < count:
        drawn = clip(seed, "shape", evaluation=True)
        seed += 1
        if not drawn.usual:
            continue
        found += 1
        seen = measure.read(shown(drawn.frames))
        for name in ATTRIBUTES:
            hits[name].append(seen[name] == getattr(drawn.spec, name))
    return {name: round(float(np.mean(values)), 4) for name, values in hits.items()}


def sheet(pipeline: WanPipeline, path: Path, steps: int, guidance: float, count: int = 40) -> None:
    """Four frames of each of `count` prompts, unpicked: the scenes, then held-out shapes. Two columns."""
    rng = np.random.default_rng(EVALUATION_SEED + 1)
    prompts = [*SHEET_PROMPTS]
    while len(prompts) < count:
        prompts.append(caption(random_spec(rng, "shape", evaluation=True), rng))
    prompts = prompts[:count]
    rows = []
    for start in range(0, count, 8):
        for one in generate(pipeline, prompts[start : start + 8], 7 + start, steps, guidance):
            rows.append(np.concatenate([one[frame, :63] for frame in (0, 5, 11, 16)], axis=1))
    half = (len(rows) + 1) // 2
    rows += [np.zeros_like(rows[0])] * (2 * half - len(rows))
    image = np.concatenate([np.concatenate(rows[:half]), np.concatenate(rows[half:])], axis=1)
    Image.fromarray((image * 255).astype(np.uint8)).quantize(256).save(path, optimize=True)
    path.with_suffix(".txt").write_text("\n".join(prompts) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Evaluate and write `evaluation.json` to the training folder, the card, its curves and its contact sheet."""
    row = Catalogue.load().get("tiny")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="generations of held-out combinations (default 200)")
    parser.add_argument("--clips", type=int, default=100, help="drawn clips to measure on (default 100)")
    parser.add_argument(
        "--steps", type=int, default=row.steps, help=f"of sampling (default {row.steps}, the catalogue's)"
    )
    parser.add_argument("--guidance", type=float, default=row.guidance)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, default=WEIGHTS.parent, help="folder of the card, its curves and sheet")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    pipeline = load(options.weights)
    began = time.monotonic()
    figures: dict[str, object] = {
        "guidance": options.guidance,
        "steps": options.steps,
        "count": options.count,
        "clips": options.clips,
    }
    sheet(pipeline, options.out / "contact_sheet.png", options.steps, options.guidance)
    model = autoencoder(pipeline)
    figures["psnr_db"], figures["psnr_by_kind_db"] = vae.psnr(model, options.clips)
    figures["measure_on_drawn_clips"] = accuracy_on_drawn(options.clips, lambda frames: frames / 255)
    figures["autoencoder_on_drawn_clips"] = accuracy_on_drawn(options.clips, partial(through, model))
    figures["held_out"] = accuracy(pipeline, options.count, options.steps, options.guidance)
    figures["films"] = promises.measure(options.weights, options.steps)
    figures["seconds"] = round(time.monotonic() - began)
    text = json.dumps(figures, indent=2)
    (state.folder() / "evaluation.json").write_text(text + "\n")
    card.write(figures, options.out, len(WORDS), options.weights)
    sys.stdout.write(text + "\n")
