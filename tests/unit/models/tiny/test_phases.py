"""The windows of a long film and the moments they ask for."""

from models.tiny import phases
from models.tiny.words import PHASE_TOKENS


def test_windows_cover_the_film() -> None:
    assert [phases.windows_for(frames) for frames in (1, 17, 18, 29, 30, 80)] == [1, 1, 2, 2, 3, 7]


def test_a_later_window_begins_with_the_last_two_latents_of_the_film() -> None:
    # Latent j stands for frames 4j - 3 ... 4j; window 1 begins with latent 3 of 0..4, window 2 with latent 6.
    assert [phases.first_frame(window) for window in range(3)] == [0, 9, 21]


def test_a_sunset_goes_on_from_window_to_window_and_ends_low() -> None:
    asked = [phases.phase("sunset", window, 80) for window in range(phases.windows_for(80))]
    assert asked == sorted(asked)
    assert asked[0] < 0.1 and 0.6 < asked[-1] < 0.95


def test_a_shape_asks_for_no_phase() -> None:
    assert phases.prompt_for("a red circle moving left", "shape", 0, 80) == "a red circle moving left"


def test_the_token_stands_first_and_only_once() -> None:
    text = phases.prompt_for("<p9> sunset over mountains", "sunset", 0, 80)
    assert text.split()[0] in PHASE_TOKENS and text.endswith(" sunset over mountains") and text.count("<p") == 1
