"""Write CARD.md and the training curves from the figures an evaluation measured; no figure is typed by hand."""

import csv
from pathlib import Path
from typing import Any

from models.tiny import architecture
from models.tiny.training import state
from models.tiny.training.export import Trained

TEXT = """# Model card: the bundled model

**For trying the system out.** It shows that a prompt becomes a video that follows it, on any machine, without a
download. It is not a general model: it knows a small world of its own.

## What it is
A diffusers `WanPipeline` of {millions:.1f} million weights in half precision, {megabytes:.1f} MB: an autoencoder
(16 x in space, 4 x in time, 32 channels), a denoiser of {layers} layers trained by flow matching, and a text encoder of 2 layers over a
word-level vocabulary of {words} words. It draws 17 frames of 112 x 64 (112 x 63 once cropped to 16:9) at 8 fps; longer
films are made window by window. Other shapes of frame were not trained.

## Data
Clips drawn by `models/tiny/training/data`: no photographs, no footage, nothing of anybody else's. Shapes (6) in
colours (8), sizes (3), directions (4), speeds (3) over backgrounds (8); a bouncing ball; sunset and sunrise over
mountains, sea and desert; waves by day and by moonlight; snow and rain on forest and city; clouds over hills;
fireworks; stars over a lake. Clips differ in light, but for those on white and grey. One in ten of the combinations of
colour, shape, direction and background was never trained on; they are what is measured below.

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

Films (`training/promises.py`, on the product's own path):

| measured | result | goal |
|---|---|---|
| a sunset of 10 s: Spearman's correlation of time and the sun's way down | {f_sun_falls_spearman:.2f} | at least 0.9 |
| distance between seeds over that between captions | {f_seeds_against_captions:.2f} | at least 0.3 |
| 30 s of clouds: change at window borders over the median change | {f_borders_against_median:.2f} | at most 1.5 |
| the clouds' speed in the last window over that in the first | {f_speed_last_against_first:.2f} | 0.7 to 1.3 |
| 30 s of a rolling ball: the same | {f_ball_last_against_first:.2f} | 0.7 to 1.3 |
| peak memory above idle, 30 s over 5 s | {f_memory_30_s_against_5_s:.2f} | at most 1.3 |

The autoencoder alone, from drawn clips of held-out combinations: colour {a_colour:.0%}, direction {a_direction:.0%},
background {a_background:.0%}, shape {a_shape:.0%} right. No denoiser can do better than that.

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


def curves(target: Path) -> None:
    """Draw the training logs that there are; a curve drawn before stays where there are none any more."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    logs = (
        ("vae", "train_psnr", "PSNR in training, dB", "linear"),
        ("denoiser", "loss", "loss", "log"),
    )
    found = [log for log in logs if (state.folder() / f"{log[0]}.csv").exists()]
    if not found:
        return
    figure, panels = pyplot.subplots(1, len(found), figsize=(5 * len(found), 3.5), squeeze=False)
    for axes, (name, column, label, scale) in zip(panels[0], found, strict=True):
        with (state.folder() / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        axes.plot([int(row["step"]) for row in rows], [float(row[column]) for row in rows])
        axes.set(title=name, xlabel="step", ylabel=label, yscale=scale)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(target, dpi=80)
    pyplot.close(figure)


def write(figures: dict[str, Any], folder: Path, words: int, weights: Path) -> None:
    """Write CARD.md and training_curves.png into `folder`."""
    trained = Trained.read(weights)
    size = sum(path.stat().st_size for path in weights.rglob("*.safetensors"))
    met = figures["held_out"]["all"] >= 0.75 and figures["psnr_db"] >= 26
    text = TEXT.format(
        **{key: figures[key] for key in ("count", "clips", "steps", "guidance", "psnr_db")},
        **figures["held_out"],
        **{f"f_{key}": value for key, value in figures["films"].items()},
        **{f"a_{key}": value for key, value in figures["autoencoder_on_drawn_clips"].items()},
        **{f"m_{key}": value for key, value in figures["measure_on_drawn_clips"].items()},
        millions=size / 2e6,
        megabytes=size / 1e6,
        words=words,
        kinds=", ".join(f"{kind.replace('_', ' ')} {value:.1f}" for kind, value in figures["psnr_by_kind_db"].items()),
        layers=architecture.DENOISER_CONFIG["num_layers"],
        vae_steps=trained.vae_steps,
        vae_hours=trained.vae_s / 3600,
        denoiser_steps=trained.denoiser_steps,
        denoiser_hours=trained.denoiser_s / 3600,
        maturity="" if met else "**Training is not finished**: the goals below are not all met yet.",
    )
    (folder / "CARD.md").write_text(text)
    curves(folder / "training_curves.png")
