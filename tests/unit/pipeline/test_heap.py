"""What a run leaves of its memory."""

from __future__ import annotations

import psutil

from pipeline import heap

BLOCKS, BLOCK_BYTES = 4000, 2**14


def test_what_a_run_freed_goes_back_to_the_system() -> None:
    process = psutil.Process()
    held = [bytes(BLOCK_BYTES) for _ in range(BLOCKS)]
    kept = bytes(BLOCK_BYTES)  # at the top of the heap, which glibc shrinks by itself only from there
    before = process.memory_info().rss
    del held
    heap.trim()
    assert before - process.memory_info().rss > BLOCKS * BLOCK_BYTES / 2
    assert len(kept) == BLOCK_BYTES
