"""What Prometheus scrapes of the workers. Labels are stages, models, outcomes and error types: never jobs or users.

In worker children prometheus-client keeps the values in files under `PROMETHEUS_MULTIPROC_DIR`, and the supervisor adds
them up; in one process (embedded) they are plain values of the default registry.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

DURATION_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
"""Seconds, 0.1 s to 2 h: thumbnails take less than a second, a long clip of a large model more than an hour."""
STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120)
"""Seconds of one denoising step, from the bundled model on a GPU to 14 B parameters on a small one."""
RATE_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)
"""Frames of the finished video per second of work."""

JOBS = Counter("t2m_jobs_total", "Jobs that got their verdict, by outcome.", ("outcome", "model"))
STAGES = Counter("t2m_stage_runs_total", "Messages handled, by what came of them.", ("stage", "outcome"))
STAGE_SECONDS = Histogram(
    "t2m_stage_duration_seconds", "Wall time of the stage runs that did the work.", ("stage",), buckets=DURATION_BUCKETS
)
QUEUE_WAIT_SECONDS = Histogram(
    "t2m_queue_wait_seconds", "Time from sending a message to taking it up.", ("stage",), buckets=DURATION_BUCKETS
)
STEP_SECONDS = Histogram(
    "t2m_denoising_step_duration_seconds", "Time from one denoising step to the next.", ("model",), buckets=STEP_BUCKETS
)
FRAMES_PER_SECOND = Histogram(
    "t2m_stage_frames_per_second", "Frames of the finished video per second of work.", ("stage",), buckets=RATE_BUCKETS
)
CHECKPOINTS = Counter("t2m_checkpoints_total", "Snapshots of renders that were kept.")
STORE_BYTES = Counter("t2m_store_bytes_total", "Bytes of artifacts moved from and to the store.", ("direction",))
ERRORS = Counter("t2m_errors_total", "Errors of stage runs, by type.", ("stage", "type"))
LOST_DELIVERIES = Counter("t2m_lost_deliveries_total", "Deliveries whose worker died or lost its broker.", ("stage",))
GPU_MEMORY_BYTES = Gauge("t2m_gpu_memory_bytes", "Memory in use on the GPU.", ("gpu",), multiprocess_mode="mostrecent")

ALL = (
    JOBS,
    STAGES,
    STAGE_SECONDS,
    QUEUE_WAIT_SECONDS,
    STEP_SECONDS,
    FRAMES_PER_SECOND,
    CHECKPOINTS,
    STORE_BYTES,
    ERRORS,
    LOST_DELIVERIES,
    GPU_MEMORY_BYTES,
)
"""For a gateway in the same process."""
