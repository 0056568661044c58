"""What the command says: results on stdout, errors and progress on stderr."""

from __future__ import annotations

import errno

from rich.console import Console

from config.errors import T2MError

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

OF_WORKERS = {
    "diffusers",
    "ffmpeg",
    "huggingface_hub",
    "imageio_ffmpeg",
    "numpy",
    "safetensors",
    "torch",
    "transformers",
}
"""Modules that an installation for gateways alone does not have."""
EXIT_FAILED = 1
EXIT_BUG = 70
"""EX_SOFTWARE of sysexits.h: an error nobody foresaw."""
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""


def say(text: str) -> None:
    """One line of result, exactly as it is."""
    out.print(text, markup=False)


def note(text: str) -> None:
    """One line beside the result."""
    err.print(text, markup=False)


def explain(error: Exception) -> tuple[str, int]:
    """One line about `error` with what to do, and the exit code."""
    if isinstance(error, T2MError):
        return _one_line(str(error)), EXIT_FAILED
    if isinstance(error, OSError) and error.errno is not None:
        return _one_line(_of_system(error)), EXIT_FAILED
    if isinstance(error, ModuleNotFoundError) and error.name in OF_WORKERS:
        return f"This installation has no {error.name}. Use one for workers: pip install 't2m[worker]'.", EXIT_FAILED
    text = f"Unexpected {type(error).__name__}: {error} Run it again with --debug and report what it prints."
    return _one_line(text), EXIT_BUG


def _of_system(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    remedy = " Free some disk space." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{error.strerror}{where}.{remedy}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
