"""What the steps of a preparation hand to each other: collection, facts, plan, report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from nlcl_plugin.errors import escape

Role = Literal["rainy", "clean"]
Split = Literal["train", "val", "test"]

EXAMPLES = 5  # of each kind of drop, in what is printed
FOLDERS = {
    ("train", "rainy"): "rainy",
    ("train", "clean"): "clean",
    ("val", "rainy"): "val_rainy",
    ("val", "clean"): "val_clean",
}


@dataclass(frozen=True)
class Source:
    """An image before it is prepared: a file, half of one, or a frame of a video.

    Attributes:
        path: The file.
        name: Its path below the folder that was given, with forward slashes; output names are made of it.
        part: Empty for the whole file, `left` or `right` for half of it, `frame=N` for a frame of a video.
    """

    path: str
    name: str
    part: str = ""

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.path}#{self.part}" if self.part else self.path

    @property
    def place(self) -> str:
        """How the manifest calls it: the same wherever the dataset lies."""
        return f"{self.name}#{self.part}" if self.part else self.name


@dataclass(frozen=True)
class Shot:
    """A rainy or clean image that a layout found.

    Attributes:
        source: The image.
        role: What it shows.
        scene: The scene; images of one scene never get into different splits. A twin has the scene of its clean.
        split: The dataset's own split, where it has one.
        twin: Of a rainy image, its clean one, where there is one.
    """

    source: Source
    role: Role
    scene: str
    split: Split | None = None
    twin: Source | None = None


@dataclass(frozen=True)
class Drop:
    """An image that is left out, and why."""

    label: str
    reason: str


@dataclass
class Collection:
    """All that a layout found, what it left out, and what else a user should know of it."""

    shots: list[Shot] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def extend(self, other: Collection) -> None:
        """Take in what was found elsewhere."""
        self.shots += other.shots
        self.drops += other.drops
        self.notes += other.notes


@dataclass(frozen=True)
class Facts:
    """What is known of an image after it was read.

    Attributes:
        bytes: The size of the file that will stand in the output.
        sha256: Its hash.
        width: In pixels, upright as EXIF says.
        height: In pixels.
        dhash: The perceptual hash; None for an image without structure, which resembles every other such image.
        brightness: The mean of all pixels and channels in [0, 1].
        modified: The source file's time of change in ns before it was read, to notice changes until the execution.
    """

    bytes: int
    sha256: str
    width: int
    height: int
    dhash: int | None
    brightness: float
    modified: int


@dataclass(frozen=True)
class Settings:
    """How images are divided and sifted.

    Attributes:
        val_fraction: The share of scenes for validation. None: the dataset's own split, or else 0.1 of paired images
            and nothing of unpaired ones.
        val_split: Which of the dataset's own splits is for validation. None: `val`, or `test` if there is none.
        seed: The seed of all draws.
        keep_twins: Use both images of a training pair.
        near_duplicates: Drop images that differ in at most this many of the 128 bits of the perceptual hash from one
            that is kept. None: 6 among the frames of a video, and stills are all kept.
        leakage_bits: Images of different splits that differ in at most this many bits count as the same.
        allow_leakage: Go on when splits share images.
    """

    val_fraction: float | None = None
    val_split: Split | None = None
    seed: int = 0
    keep_twins: bool = False
    near_duplicates: int | None = None
    leakage_bits: int = 4
    allow_leakage: bool = False


@dataclass(frozen=True)
class Item:
    """One file of the output."""

    path: str
    source: Source
    facts: Facts
    scene: str
    split: Split
    role: Role
    pair: str | None

    def record(self) -> dict[str, Any]:
        """Its line in the manifest."""
        return {
            "path": self.path,
            "source": self.source.place,
            "bytes": self.facts.bytes,
            "sha256": self.facts.sha256,
            "width": self.facts.width,
            "height": self.facts.height,
            "scene": self.scene,
            "split": self.split,
            "role": self.role,
            "pair": self.pair,
        }


@dataclass
class Plan:
    """The files to be made, and what is left out.

    Attributes:
        items: The files, sorted by path.
        drops: What is left out.
        unreadable: What could not be read.
        notes: What else a user should know, one line each.
        twins: Unpaired training images that show one scene with and without rain, said in the notes too.
    """

    items: list[Item]
    drops: list[Drop]
    unreadable: list[Drop]
    notes: list[str]
    twins: list[tuple[Item, Item]] = field(default_factory=list)

    def manifest(self) -> str:
        """The manifest: one JSON line per file."""
        # ASCII only, so that names that are no valid Unicode can be written too.
        return "".join(json.dumps(item.record()) + "\n" for item in self.items)

    def describe(self) -> list[str]:
        """The plan in words, one line each."""
        lines = []
        for (split, role), folder in FOLDERS.items():
            chosen = [item for item in self.items if (item.split, item.role) == (split, role)]
            scenes = len({item.scene for item in chosen})
            size = sum(item.facts.bytes for item in chosen) / 1e6
            lines.append(f"{folder}: {len(chosen)} images of {scenes} scenes, {size:.1f} MB")
        for title, drops in (("left out", self.drops), ("unreadable", self.unreadable)):
            reasons: dict[str, list[str]] = {}
            for drop in drops:
                reasons.setdefault(drop.reason, []).append(drop.label)
            lines += [f"{title}: {len(labels)} × {reason}: {examples(labels)}" for reason, labels in reasons.items()]
        return [escape(line) for line in lines + [f"note: {note}" for note in self.notes]]


@dataclass
class Report:
    """What an execution did.

    Attributes:
        plan: The plan.
        kept: Files that were there already.
        linked: Files that are hard links to their source.
        written: Files that were copied, cut out or decoded.
    """

    plan: Plan
    kept: int = 0
    linked: int = 0
    written: int = 0

    @property
    def exit_code(self) -> int:
        """0, or 3 if files were skipped."""
        return 3 if self.plan.unreadable else 0


def examples(labels: list[str]) -> str:
    """Name the first few of many."""
    more = f", and {len(labels) - EXAMPLES} more" if len(labels) > EXAMPLES else ""
    return ", ".join(labels[:EXAMPLES]) + more
