"""A clip half drawn, as bytes: all that another process needs to go on from there and end with the same bits.

The bytes are a safetensors file: the tensors, and one JSON text in its header with everything else. Nothing in it is
executed when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from config.catalogue import ModelEntry
from models.contract import ClipSpec
from models.errors import SnapshotRefused
from models.families.base import Latents

FORMAT = 1
"""Of the bytes; raised whenever an older release could misread them."""

HEADER = "t2m"
"""Key of the JSON text among the file's metadata."""

PACKAGES = ("torch", "diffusers", "transformers")
"""Another version of these may compute other bits."""

Tree = Any
"""JSON with tensors as further leaves."""


@dataclass(frozen=True)
class Snapshot:
    """See `models.contract.Snapshot`. Shares no memory with the loop it was taken of.

    Attributes:
        body: JSON; each tensor is replaced by its name and the kind of device it goes back to.
        tensors: on the CPU, by name.
    """

    body: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def take(
        cls,
        work: Mapping[str, Any],
        place: Mapping[str, Any],
        finished: Sequence[Latents],
        loop: Tree,
        step: int,
        exact: bool,
    ) -> Snapshot:
        """Copy the state of a clip between two steps.

        Args:
            work: `work_of` the clip.
            place: `place_of` this process.
            finished: latents of the windows that are done.
            loop: what the family saved of the window after them.
            step: steps done in that window.
            exact: all of it was drawn in places like this one.
        """
        tensors: dict[str, Tensor] = {}
        latents = _packed([{"video": one.video, "audio": one.audio} for one in finished], tensors)
        loop = _packed(loop, tensors)
        body = {"work": work, "place": place, "finished": latents, "loop": loop, "step": step, "exact": exact}
        return cls({"format": FORMAT, **body}, tensors)

    @property
    def window(self) -> int:
        """The window in hand, from 0."""
        return len(self.body["finished"])

    @property
    def step(self) -> int:
        """Steps done in it."""
        return int(self.body["step"])

    @property
    def finished(self) -> list[Latents]:
        """Latents of the windows before it."""
        return [Latents(**latents) for latents in _unpacked(self.body["finished"], self.tensors)]

    @property
    def loop(self) -> Tree:
        """What the family saved, tensors back on their devices."""
        return _unpacked(self.body["loop"], self.tensors)

    @property
    def exact(self) -> bool:
        """See `models.contract.Snapshot`."""
        return bool(self.body["exact"])

    def brought_to(self, place: Mapping[str, Any]) -> Snapshot:
        """This snapshot as the beginning of work in `place`."""
        exact = self.exact and self.body["place"] == place
        return Snapshot({**self.body, "place": place, "exact": exact}, self.tensors)

    def check(self, work: Mapping[str, Any]) -> None:
        """Check that this is a part of that work. Raises `SnapshotRefused`."""
        theirs: Mapping[str, Any] = self.body["work"]
        other = sorted(name for name in {*work, *theirs} if work.get(name) != theirs.get(name))
        if other:
            raise SnapshotRefused(f"The checkpoint is of other work: {', '.join(other)} differ.")

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        data: bytes = save(dict(self.tensors), metadata={HEADER: json.dumps(self.body)})
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """The snapshot in `data`. Raises `SnapshotRefused` if it is none, or of another release's format."""
        try:
            body, tensors = json.loads(_header(data)), load(data)
            if body["format"] != FORMAT:
                raise SnapshotRefused(f"The checkpoint has format {body['format']}; this release reads {FORMAT}.")
        except (SafetensorError, ValueError, LookupError, TypeError) as error:
            raise SnapshotRefused("The checkpoint cannot be read.") from error
        return cls(body, tensors)


def work_of(entry: ModelEntry, spec: ClipSpec) -> dict[str, Any]:
    """What the bits of a clip depend on, apart from where it is drawn."""
    software = {name: version(name) for name in PACKAGES}
    row = {"model": entry.name, "revision": entry.revision, "dtype": entry.dtype, "flow_shift": entry.flow_shift}
    return {**row, **software, **asdict(spec)}


def place_of(device: str) -> dict[str, Any]:
    """The hardware of this process as far as bits depend on it: kernels, and on a CPU how sums are split."""
    if device.startswith("cuda"):
        return {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return {"device": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}


def _header(data: bytes) -> str:
    """The JSON text; safetensors reads metadata of files on disk only, but its layout is public and fixed."""
    length = int.from_bytes(data[:8], "little")
    text: str = json.loads(data[8 : 8 + length])["__metadata__"][HEADER]
    return text


def _packed(tree: Tree, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name, "device": tree.device.type}
    if isinstance(tree, Mapping):
        return {key: _packed(value, tensors) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_packed(value, tensors) for value in tree]
    return tree


def _unpacked(body: Any, tensors: Mapping[str, Tensor]) -> Tree:  # noqa: ANN401 - JSON
    if isinstance(body, list):
        return [_unpacked(value, tensors) for value in body]
    if not isinstance(body, dict):
        return body
    if "tensor" in body:
        return tensors[body["tensor"]].to(body["device"], copy=True)
    return {key: _unpacked(value, tensors) for key, value in body.items()}
