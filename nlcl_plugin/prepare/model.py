"""What the steps of a preparation pass to each other: images found, facts about them, options, and the plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from nlcl_plugin.errors import counted, escape, size_of

Role = Literal["rainy", "clean"]
Split = Literal["train", "val", "test"]

FOLDERS = {
    ("train", "rainy"): "rainy",
    ("train", "clean"): "clean",
    ("val", "rainy"): "val_rainy",
    ("val", "clean"): "val_clean",
}


@dataclass(frozen=True)
class SourceImage:
    """An image of a dataset: a file, half of one, or a frame of a video."""

    path: str
    name: str  # the path below the dataset's folder, with forward slashes; output names are made from it
    part: str = ""  # empty for the whole file, `left` or `right` for half of it, `frame=N` for a frame of a video

    @property
    def label(self) -> str:
        """Its name in messages."""
        return f"{self.path}#{self.part}" if self.part else self.path

    @property
    def stem(self) -> str:
        """Its name without ending."""
        return str(PurePosixPath(self.name).with_suffix(""))

    @property
    def is_frame(self) -> bool:
        """Whether it is a frame of a video."""
        return self.part.startswith("frame=")


@dataclass(frozen=True)
class LabelledImage:
    """An image with its role and scene; images of one scene never get into different splits."""

    source: SourceImage
    role: Role
    scene: str
    split: Split | None = None  # the dataset's own, if it has one
    twin: SourceImage | None = None  # the clean image of a rainy one, if there is one; it has the same scene

    def below(self, prefix: str) -> LabelledImage:
        """The same with a prefix before its names and its scene."""
        source = replace(self.source, name=prefix + self.source.name)
        twin = self.twin and replace(self.twin, name=prefix + self.twin.name)
        return replace(self, source=source, scene=prefix + self.scene, twin=twin)


@dataclass(frozen=True)
class Drop:
    """An image that is left out, and why."""

    label: str
    reason: str


Paired = tuple[list[tuple[SourceImage, SourceImage]], list[Drop]]  # pairs, and images without a partner


@dataclass
class Collection:
    """The images that a layout found, what it left out, and what else the user should know."""

    images: list[LabelledImage] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_pairs(
        self, paired: Paired, split: Split | None = None, scene: Callable[[SourceImage], str] | None = None
    ) -> Collection:
        """Add pairs of one split; `scene` returns the scene of a clean image, its path without ending by default."""
        pairs, drops = paired
        scene = scene or (lambda clean: clean.stem)
        self.images += [LabelledImage(rainy, "rainy", scene(clean), split, clean) for rainy, clean in pairs]
        self.images += [LabelledImage(one, "clean", scene(one), split) for one in dict.fromkeys(p[1] for p in pairs)]
        self.drops += drops
        return self

    def drop(self, reasons: dict[SourceImage, str]) -> None:
        """Leave images out."""
        self.drops += [Drop(source.label, reason) for source, reason in reasons.items()]
        self.images = [image for image in self.images if image.source not in reasons]


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image after it was read; size and hash are those of the output file."""

    bytes: int
    sha256: str
    width: int  # pixels, after the rotation that EXIF asks for
    height: int
    dhash: int | None  # the perceptual hash; None for an image without structure, which resembles every other such
    modified: int  # the source file's modification time in ns before it was read; shows later changes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height


@dataclass(frozen=True)
class Options:
    """A user's options. Bits are those of the perceptual hash, which has 128."""

    rainy: str | None = None  # folders, for `two-folders` and `pairs`
    clean: str | None = None
    val_rainy: str | None = None  # folders of validation pairs of equal names, for `two-folders`
    val_clean: str | None = None
    pair_by: str | None = None  # `stem`, `affix`, `regex`, `list` or `order`, for `pairs`
    rainy_name: str = "{}"  # the forms of file names, for `affix`
    clean_name: str = "{}"
    rainy_regex: str | None = None  # finds the key of a path, for `regex`
    clean_regex: str | None = None  # None: the same expression
    list_file: str | None = None  # for `list` and `SPA-Data`
    rain_side: str | None = None  # `left` or `right`, for `side-by-side`
    paired_val: bool = False  # in `trainA/trainB`, valA and valB (testA and testB) contain pairs of equal names
    val_fraction: float | None = None  # of scenes. None: the dataset's own split, or else 0.1 of paired scenes
    val_split: Split | None = None  # the dataset's own split for validation. None: `val`, or `test` if there is none
    seed: int = 0
    keep_twins: bool = False  # use both images of a training pair
    near_duplicates: int | None = None  # drop images within so many bits of a kept one. None: 6, for video frames only
    leakage_bits: int = 4  # images of different splits within so many bits count as the same
    allow_leakage: bool = False  # only warn of images that are in both splits


@dataclass(frozen=True)
class OutputFile:
    """A file of the output; `path` is relative to it, `pair` is the name of its partner."""

    path: str
    source: SourceImage
    facts: ImageFacts
    scene: str
    split: Split
    role: Role
    pair: str | None


@dataclass
class Plan:
    """The files to make, sorted by path, what is left out, and what else the user should know."""

    files: list[OutputFile]
    drops: list[Drop]
    unreadable: list[Drop]
    notes: list[str]
    twins: list[tuple[OutputFile, OutputFile]] = field(default_factory=list)  # unpaired, but of one scene

    def manifest(self) -> str:
        """The manifest: one JSON line per file; the same wherever the dataset is."""
        lines = []
        for file in self.files:
            source = f"{file.source.name}#{file.source.part}" if file.source.part else file.source.name
            line: dict[str, Any] = {"path": file.path, "source": source}
            line |= {name: getattr(file.facts, name) for name in ("bytes", "sha256", "width", "height")}
            line |= {name: getattr(file, name) for name in ("scene", "split", "role", "pair")}
            lines.append(json.dumps(line) + "\n")  # ASCII, since names need not be valid Unicode
        return "".join(lines)

    def of(self, split: str, role: str) -> list[OutputFile]:
        """The files of one folder."""
        return [file for file in self.files if (file.split, file.role) == (split, role)]

    def describe(self) -> list[str]:
        """Describe the plan, one line per folder, reason and note."""
        lines = []
        for key, folder in FOLDERS.items():
            files = self.of(*key)
            size, scenes = sum(file.facts.bytes for file in files), {file.scene for file in files}
            line, sides = f"{folder}: {counted(len(files), 'image')}", sorted({min(file.facts.size) for file in files})
            if files:
                span = f"{sides[0]} to {sides[-1]}" if len(sides) > 1 else sides[0]
                line += f" of {counted(len(scenes), 'scene')}, {size_of(size)}, shorter side {span} pixels"
            lines.append(line)
        return [escape(line) for line in lines + self.left_out() + [f"note: {note}" for note in self.notes]]

    def left_out(self) -> list[str]:
        """Describe what is left out or unreadable, one line per reason."""
        lines = []
        for title, drops in (("left out", self.drops), ("unreadable", self.unreadable)):
            reasons: dict[str, list[str]] = {}
            for drop in drops:
                reasons.setdefault(drop.reason, []).append(drop.label)
            lines += [f"{title}: {len(labels)} × {reason}: {examples(labels)}" for reason, labels in reasons.items()]
        return lines


def examples(labels: list[str], count: int = 5) -> str:
    """Name the first few of many."""
    more = f", and {len(labels) - count} more" if len(labels) > count else ""
    return ", ".join(labels[:count]) + more
