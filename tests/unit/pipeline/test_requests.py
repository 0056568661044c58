"""The resolved job, and the refusal of everything that cannot be made, field by field."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.catalogue import Catalogue
from pipeline.errors import InvalidRequest
from pipeline.requests import resolve
from pipeline.vocabulary import JobRequest

CATALOGUE = Catalogue.load()
TINY = CATALOGUE.get("tiny")


def ask(**body: object) -> JobRequest:
    return resolve(body, user_id="ada", catalogue=CATALOGUE, default_model="tiny")


def refused(**body: object) -> dict[str, list[str]]:
    with pytest.raises(InvalidRequest) as caught:
        ask(**body)
    return caught.value.fields


def test_a_prompt_alone_gets_every_default_of_the_model() -> None:
    job = ask(prompt="a red ball")
    assert (job.prompt, job.negative_prompt, job.user_id, job.model) == ("a red ball", "", "ada", "tiny")
    assert (job.duration_s, job.quality, job.fps) == (4.0, "1080p", TINY.output_fps)
    assert (job.aspect_ratio, job.steps, job.guidance) == (TINY.aspect_ratios[0], TINY.steps, TINY.guidance)
    assert job.job_id.startswith("job_")
    assert len(job.trace_id) == 32


def test_what_is_asked_is_kept() -> None:
    body = {"duration": 10, "quality": "720p", "fps": 30, "seed": 12345, "steps": 3, "guidance": 1, "model": "tiny"}
    job = ask(prompt="p", negative_prompt="blurry", aspect_ratio="16:9", **body)
    assert (job.duration_s, job.quality, job.fps, job.seed) == (10.0, "720p", 30, 12345)
    assert (job.steps, job.guidance, job.negative_prompt, job.frames) == (3, 1.0, "blurry", 300)


def test_null_is_left_out_and_seeds_are_drawn_anew() -> None:
    jobs = [ask(prompt="p", seed=None, fps=None) for _ in range(4)]
    assert {job.fps for job in jobs} == {TINY.output_fps}
    assert len({job.seed for job in jobs}) > 1
    assert len({job.job_id for job in jobs}) == 4


WRONG = [
    ("prompt", "", "at least 1"),
    ("prompt", "  \n", "empty"),
    ("prompt", "x" * (TINY.max_prompt_chars + 1), str(TINY.max_prompt_chars)),
    ("prompt", 7, "string"),
    ("prompt", "nul \x00", "control"),
    ("prompt", "half a pair \ud800", "string"),
    ("negative_prompt", "x" * (TINY.max_prompt_chars + 1), str(TINY.max_prompt_chars)),
    ("negative_prompt", "bell \x07", "control"),
    ("duration", 0, "1"),
    ("duration", 61, "60"),
    ("duration", -1, "1"),
    ("duration", math.nan, "finite"),
    ("duration", math.inf, "finite"),
    ("duration", True, "number"),
    ("duration", "10", "number"),
    ("quality", "4k", "720p"),
    ("quality", 1080, "1080p"),
    ("fps", 0, "1"),
    ("fps", 61, "60"),
    ("fps", True, "integer"),
    ("fps", 24.5, "integer"),
    ("fps", math.nan, "integer"),
    ("aspect_ratio", "7:3", TINY.aspect_ratios[0]),
    ("seed", -1, "0"),
    ("seed", 2**32, "4294967296"),
    ("seed", 1.5, "integer"),
    ("seed", False, "integer"),
    ("steps", 0, "1"),
    ("steps", TINY.max_steps + 1, str(TINY.max_steps)),
    ("guidance", 0.5, "1"),
    ("guidance", math.nan, "finite"),
    ("guidance", True, "number"),
    ("model", "sora", "tiny"),
    ("model", 7, "tiny"),
    ("model", {}, "tiny"),
    ("model", "", "tiny"),
    ("model", ["tiny"], "tiny"),
    ("priority", "urgent", "'high'"),
    ("priority", 1, "'high'"),
    ("metadata", [], "dictionary"),
    ("metadata", {"x": "y" * 4096}, "4096 bytes"),
    ("metadata", {"x": math.nan}, "valid JSON"),
    ("metadata", {"x": "\ud800"}, "UTF-8"),
    ("webhook_url", "ftp://example.com/", "https"),
    ("webhook_url", "https://user:password@example.com/", "credentials"),
    ("webhook_url", "https://" + "x" * 3000, "2083"),
    ("webhook_url", 1, "string"),
    ("expires_in", 59, "60"),
    ("expires_in", 1.5, "integer"),
    ("reuse", "yes", "boolean"),
    ("colour", "red", "Unknown field"),
]


@pytest.mark.parametrize(("field", "value", "says"), WRONG)
def test_a_wrong_field_is_named_with_what_is_accepted(field: str, value: object, says: str) -> None:
    fields = refused(**({"prompt": "p"} | {field: value}))
    assert list(fields) == [field]
    assert says in fields[field][0]


def test_a_missing_prompt_and_all_other_errors_are_told_at_once() -> None:
    assert refused(model="sora", fps="x", colour=1) == {
        "model": [f"Must be one of: {', '.join(CATALOGUE.names)}"],
        "prompt": ["Required"],
        "fps": ["Must be a valid integer"],
        "colour": [refused(prompt="p", colour=1)["colour"][0]],
    }


def test_limits_are_those_of_the_model_asked_for() -> None:
    short = TINY.model_copy(update={"name": "short", "max_duration_s": 3.0, "sizes": {"1:1": TINY.sizes["16:9"]}})
    catalogue = Catalogue({"tiny": TINY, "short": short})

    def with_short(**body: object) -> JobRequest:
        return resolve({"prompt": "p", "model": "short"} | body, user_id="u", catalogue=catalogue, default_model="tiny")

    assert (with_short().duration_s, with_short().aspect_ratio) == (3.0, "1:1")
    with pytest.raises(InvalidRequest, match="duration"):
        with_short(duration=3.5)
    with pytest.raises(InvalidRequest, match="aspect_ratio"):
        with_short(aspect_ratio="16:9")


def test_steps_that_a_model_cannot_draw_with_are_refused() -> None:
    """One step of LTX-2 made a black video."""
    assert ask(prompt="p", model="ltx-2", steps=2).steps == 2
    assert refused(prompt="p", model="ltx-2", steps=1) == {"steps": ["Must be greater than or equal to 2"]}


@given(
    duration=st.floats(1, 60),
    fps=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    quality=st.sampled_from(["720p", "1080p"]),
    prompt=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=50).filter(str.strip),
)
def test_every_allowed_value_survives_the_way_to_the_worker(
    duration: float, fps: int, seed: int, quality: str, prompt: str
) -> None:
    job = ask(prompt=prompt, duration=duration, fps=fps, seed=seed, quality=quality)
    assert JobRequest.model_validate_json(job.model_dump_json()) == job
    assert (job.prompt, job.duration_s, job.fps, job.seed, job.quality) == (prompt, duration, fps, seed, quality)
    assert job.frames == max(1, round(duration * fps))
