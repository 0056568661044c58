"""Bench (d): peak memory above idle, 60 s of video ÷ 5 s, for decode → mezzanine and for encode.

    python -m benchmarks.memory [--short 5] [--long 60] [--fps 4]

Decode: a Wan 2.2 VAE with few channels decodes random latents at 1280×704, one latent frame after the other, into the
mezzanine by the render stage. Frames come at 4 per second by default, not Wan's 24, to spare two cores half an hour; if
240 frames were kept, 650 MB would show. Encode: a 1280×704 mezzanine at 24 fps into 720p and 1080p with HLS.

Each run has its own process, whose whole tree is sampled (PSS, so that shared pages count once) every `SAMPLE_S`
seconds. Idle is after imports and loading. Prints one line per ratio and JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from config.catalogue import Catalogue, Size
from models.contract import Cancellation, Chunk, ClipSpec, NeverCancelled, Report, Understood, ignore
from stages.encode import EncodeSpec, encode, ladder
from stages.render import render

SAMPLE_S = 0.1
WIDTH, HEIGHT = 1280, 704
ENCODE_FPS = 24
LIMIT = 1.2
LATENT_WINDOW = 8
"""Latent frames per window: 29 to 32 frames, about what a model hands to the decoder at once."""


class Clip:
    """A `VideoModel` around an iterator of chunks, at 1280×704."""

    audio_sample_rate = None

    def __init__(self, fps: float, chunks: Iterator[Chunk]) -> None:
        row = next(iter(Catalogue.load()))
        size = Size(width=WIDTH, height=HEIGHT)
        self.entry = row.model_copy(update={"name": "bench", "fps": fps, "sizes": {"16:9": size}})
        self._chunks = chunks

    def understand(self, prompt: str) -> Understood:
        return Understood(complete=True, text=prompt)

    def generate(
        self, spec: ClipSpec, report: Report = ignore, cancellation: Cancellation = NeverCancelled(), *_: object
    ) -> Iterator[Chunk]:
        missing = spec.frames
        for chunk in self._chunks:
            yield Chunk(chunk.frames[:missing])
            missing -= len(chunk.frames)
            if missing <= 0:
                return


def decoded() -> Iterator[Chunk]:
    """Frames of a Wan 2.2 VAE with few channels from endless random latents."""
    import torch
    from diffusers import AutoencoderKLWan

    from models.families.wan import WanStreamDecoder
    from models.frames import to_rgb

    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=2, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16, is_residual=True,
    ).eval()  # fmt: skip
    decoder = WanStreamDecoder(vae)

    def chunks() -> Iterator[Chunk]:
        while True:
            for video in decoder.decode(torch.randn(1, 4, LATENT_WINDOW, HEIGHT // 16, WIDTH // 16)):
                yield Chunk(to_rgb(video))

    return chunks()


def painted() -> Iterator[Chunk]:
    """A gradient with fine grain that moves, drawn at next to no cost."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(40, 200, WIDTH)[None, :, None] + np.linspace(0, 30, HEIGHT)[:, None, None]
    picture = (ramp + rng.normal(0, 4, (HEIGHT, WIDTH, 3))).clip(0, 255).astype(np.uint8)
    while True:
        picture = np.roll(picture, 3, axis=1)
        yield Chunk(picture[None])


def draw(chunks: Iterator[Chunk], fps: float, seconds: float, out: Path) -> Path:
    spec = ClipSpec("", WIDTH, HEIGHT, round(seconds * fps), seed=0, steps=1, guidance=1.0)
    return render(Clip(fps, chunks), spec, out).mezzanine.path


def work(kind: str, seconds: float, fps: float, folder: Path) -> None:
    """Child: load, say that it is ready, wait for a line, do the work."""
    chunks = decoded() if kind == "decode" else None
    print("ready", flush=True)
    sys.stdin.readline()
    if chunks:
        draw(chunks, fps, seconds, folder / f"decode-{seconds:g}")
    else:
        spec = EncodeSpec(ladder("1080p", "16:9"), ENCODE_FPS, round(seconds * ENCODE_FPS), encoder="libx264")
        encode(folder / f"{seconds:g}/mezzanine.mov", spec, folder / f"encode-{seconds:g}")


def tree_bytes(root: psutil.Process) -> int:
    """PSS of a process and all its descendants."""
    total = 0
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, OSError):  # it may just have ended
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()  # the kernel's own sum, cheap to ask for
            total += 1024 * next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def measure(kind: str, seconds: float, fps: float, folder: Path) -> dict[str, Any]:
    """Peak and idle of one run in a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.memory", "--child", kind, "--seconds", str(seconds)]
    argv += ["--fps", str(fps), "--folder", str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        root = psutil.Process(child.pid)
        idle = peak = tree_bytes(root)
        child.stdin.write("go\n")
        child.stdin.flush()
        started = time.monotonic()
        while child.poll() is None:
            with suppress(psutil.NoSuchProcess):
                peak = max(peak, tree_bytes(root))
            time.sleep(SAMPLE_S)
    if child.returncode:
        raise SystemExit(f"the {kind} run failed with exit code {child.returncode}")
    return {"idle": idle, "peak": peak, "above": peak - idle, "seconds": round(time.monotonic() - started, 1)}


def main() -> None:
    """Run both kinds at both lengths."""
    arguments = parse()
    if arguments.child:
        work(arguments.child, arguments.seconds, arguments.fps, arguments.folder)
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="t2m-bench-") as name:
        folder = Path(name)
        for seconds in (arguments.short, arguments.long):
            draw(painted(), ENCODE_FPS, seconds, folder / f"{seconds:g}")
        for kind in ("decode", "encode"):
            runs = {
                seconds: measure(kind, seconds, arguments.fps, folder) for seconds in (arguments.short, arguments.long)
            }
            ratio = runs[arguments.long]["above"] / runs[arguments.short]["above"]
            results[kind] = {"ratio": round(ratio, 3), "runs": {f"{s:g} s": run for s, run in runs.items()}}
            print(
                f"(d) {kind}: {arguments.long:g} s ÷ {arguments.short:g} s = {ratio:.3f} (at most {LIMIT})", flush=True
            )
    print(json.dumps({"bench": "memory", "limit": LIMIT, "unit": "bytes", **results}))


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", type=float, default=5)
    parser.add_argument("--long", type=float, default=60)
    parser.add_argument("--fps", type=float, default=4, help="native rate of the decoded clip")
    parser.add_argument("--child", choices=("decode", "encode"), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
