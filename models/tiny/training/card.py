"""Write CARD.md and the training curves from the figures an evaluation measured; no figure is typed by hand."""

import csv
from pathlib import Path
from typing import Any

from models.tiny.training import state

TEXT = """# Model card: the bundled model

**For trying the system out.** It shows that a prompt becomes a video that follows it, on any machine, without a
download. It is not a general model: it knows a small world of its own.

## What it is
A diffusers `WanPipeline` of {millions:.1f} million weights in half precision, {megabytes:.1f} MB: an autoencoder
(16 x in space, 4 x in time, 32 channels), a denoiser of 8 layers trained by flow matching, and a text encoder of 2 layers over a
word-level vocabulary of {words} words. It draws 17 frames of 112 x 64 (112 x 63 once cropped to 16:9) at 8 fps; longer
films are made window by window. Other shapes of frame were not trained.

## Data
Clips drawn by `models/tiny/training/data`: no photographs, no footage, nothing of anybody else's. Shapes (6) in
colours (8), sizes (3), directions (4), speeds (3) over backgrounds (8); a bouncing ball; sunset and sunrise over
mountains, sea and desert; waves by day and by moonlight; snow and rain on forest and city; clouds over hills;
fireworks; stars over a lake. One in ten of the combinations of colour, shape, direction and background was never
trained on; they are what is measured below.

## Training
| part | steps | hours of wall clock | on |
|---|---|---|---|
| autoencoder | {vae_steps} | {vae_hours:.2f} | 2 shared CPU cores, niced, other work running beside |
| denoiser and text encoder | {denoiser_steps} | {denoiser_hours:.2f} | the same |

Curves: `training_curves.png`. Reproduce with `python -m models.tiny.train`. {maturity}

## Figures (`python -m models.tiny.evaluate`; {count} generations, {clips} drawn clips, {steps} steps, guidance {guidance})
| measured | result | goal |
|---|---|---|
| autoencoder on unseen clips, PSNR | {psnr_db:.2f} dB | 26 dB |
| colour, held-out combinations | {colour:.1%} | 95 % |
| direction | {direction:.1%} | 95 % |
| background | {background:.1%} | 90 % |
| shape | {shape:.1%} | 85 % |
| all four | {all:.1%} | 75 % |

By chance: colour and background 12.5 %, direction 25 %, shape 17 %. The measures are plain image processing
(`training/measure.py`); on drawn clips they read colour {m_colour:.0%}, direction {m_direction:.0%}, background
{m_background:.0%}, shape {m_shape:.0%} right.

PSNR by kind of clip, dB: {kinds}.

The contact sheet `contact_sheet.png` shows 40 prompts, unpicked, first seed each (prompts in `contact_sheet.txt`).

## What it cannot do
People, animals, objects, text, camera moves, sound, several things at once, and any word outside its list; prompts
are read for the nearest known words, and the reply says what was understood. Fine detail is soft.

## Licence
Weights and data generator: the licence of this repository.
"""


def _last_row(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))[-1]


def curves(target: Path) -> None:
    """Draw both training logs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.5))
    for axes, name, column, label in (
        (left, "vae", "train_psnr", "PSNR in training, dB"),
        (right, "denoiser", "loss", "loss"),
    ):
        with (state.folder() / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        axes.plot([int(row["step"]) for row in rows], [float(row[column]) for row in rows])
        axes.set(title=name, xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
    right.set_yscale("log")
    figure.tight_layout()
    figure.savefig(target, dpi=80)
    pyplot.close(figure)


def write(figures: dict[str, Any], folder: Path, words: int, weights: Path) -> None:
    """Write CARD.md and training_curves.png into `folder`."""
    vae, denoiser = (_last_row(state.folder() / f"{name}.csv") for name in ("vae", "denoiser"))
    size = sum(path.stat().st_size for path in weights.rglob("*.safetensors"))
    met = figures["held_out"]["all"] >= 0.75 and figures["psnr_db"] >= 26
    text = TEXT.format(
        **{key: figures[key] for key in ("count", "clips", "steps", "guidance", "psnr_db")},
        **figures["held_out"],
        **{f"m_{key}": value for key, value in figures["measure_on_drawn_clips"].items()},
        millions=size / 2e6,
        megabytes=size / 1e6,
        words=words,
        kinds=", ".join(f"{kind.replace('_', ' ')} {value:.1f}" for kind, value in figures["psnr_by_kind_db"].items()),
        vae_steps=vae["step"],
        vae_hours=float(vae["spent_s"]) / 3600,
        denoiser_steps=denoiser["step"],
        denoiser_hours=float(denoiser["spent_s"]) / 3600,
        maturity="" if met else "**Training is not finished**: the goals below are not all met yet.",
    )
    (folder / "CARD.md").write_text(text)
    curves(folder / "training_curves.png")
