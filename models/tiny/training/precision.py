"""Half precision where it is faster: one place that knows whether this CPU multiplies in bfloat16."""

import torch


def fast_bfloat16() -> bool:
    """Whether the CPU has instructions for products in bfloat16, which are emulated fifty times slower where not."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast() -> torch.autocast:
    """The context that training and sampling run in: bfloat16 where that is fast, else single precision."""
    return torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16())


def matrices() -> torch.dtype:
    """What to keep matrices in that only need a few digits."""
    return torch.bfloat16 if fast_bfloat16() else torch.float32
