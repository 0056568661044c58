"""The bundled model's reading of prompts."""

import pytest

from models.tiny.prompts import FALLBACK, nearest, understand
from models.tiny.words import WORDS


@pytest.mark.parametrize(
    ("prompt", "text", "kind"),
    [
        ("A beautiful sunset over mountains", "a beautiful sunset over mountains", "sunset"),
        ("a crimson circle gliding left over the ocean", "a red circle moving left over the sea", "shape"),
        ("sunsett behind the alps", "sunset over mountains", "sunset"),  # a slip of the pen
        ("starry night above a pond", "stars over a lake", "stars"),
        ("a ball bouncing on grass", "a red ball bouncing over the meadow", "ball"),
        ("skyscrapers in a thunderstorm", "rain falling on the city", "rain"),
        ("a white square on a black background", "a white square moving right on a black background", "shape"),
        ("a tiny blue ball going up fast at night", "a small blue ball moving up quickly in the night sky", "shape"),
        ("a star slowly falling over the sea", "a red star moving down slowly over the sea", "shape"),
        ("waves in moonlight", "waves at night under the moon", "moonlit_waves"),
    ],
)
def test_says_it_in_taught_words(prompt: str, text: str, kind: str) -> None:
    read = understand(prompt)
    assert (read.text, read.kind) == (text, kind)


def test_reports_what_was_read_as_what() -> None:
    read = understand("a crimson circle over the ocean eating pizza")
    assert read.replaced == {"crimson": "red", "ocean": "sea"}
    assert read.ignored == ("eating", "pizza")
    assert read.part == pytest.approx(3 / 5)


@pytest.mark.parametrize("prompt", ["", "a dragon eats pizza", "白い猫", "!!!", "<p3>", "x" * 5000])
def test_nothing_understood_still_gives_a_prompt_and_says_so(prompt: str) -> None:
    read = understand(prompt)
    assert read.text == FALLBACK
    assert read.words == ()
    assert "understood nothing" in read.sentence()


@pytest.mark.parametrize(
    "prompt", ["a beautiful sunset over mountains", "big blue stars fall quickly", "snow, dawn & the sea"]
)
def test_every_word_given_to_the_model_is_known(prompt: str) -> None:
    assert set(understand(prompt).text.split()) <= set(WORDS)


@pytest.mark.parametrize(
    ("word", "known"), [("crimson", "red"), ("oceans", "sea"), ("montains", "mountains"), ("zebra", None)]
)
def test_nearest_word(word: str, known: str | None) -> None:
    assert nearest(word) == known
