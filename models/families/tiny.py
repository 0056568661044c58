"""The bundled model: Wan's classes, small, with words and moments of its own world (`models/tiny`)."""

from __future__ import annotations

from pathlib import Path

from config.catalogue import ModelEntry
from models.contract import ClipSpec, Understood
from models.families import wan
from models.tiny import phases, prompts


def load(entry: ModelEntry, folder: Path, device: str) -> TinyFamily:
    """The adapter of the bundled weights."""
    return TinyFamily(wan.load(entry, folder, device).pipeline, entry)


class TinyFamily(wan.WanFamily):
    """Gives the model sentences of the form it was taught, for the moment of the film each window shows."""

    def understand(self, prompt: str) -> Understood:
        """The taught words nearest to the prompt's, and those that have none."""
        read = prompts.understand(prompt)
        return Understood(complete=not read.ignored, text=read.text if read.words else "", ignored=read.ignored)

    def texts(self, spec: ClipSpec, window: int) -> tuple[str, str]:
        """See `WanFamily.texts`; a sun's course is spread over the whole film."""
        read = prompts.understand(spec.prompt)
        prompt = phases.prompt_for(read.text, read.kind, read.speed, window, spec.frames)
        return prompt, prompts.understand(spec.negative_prompt).text if spec.negative_prompt else ""
