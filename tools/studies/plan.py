"""A study file: which trainings it asks for, and with which options."""

import hashlib
import itertools
import json
import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nlcl_plugin.config.option_files import load_yaml, merged, read_yaml
from nlcl_plugin.errors import InputError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=,+-]*")


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(_Block):
    """One way of training, a row of the table."""

    options: str | None = Field(None, description="Option file instead of the study's, relative to the study file.")
    set: dict[str, Any] = Field({}, description="Options to change, merged as by `_base_`.")
    datasets: list[str] | None = Field(None, description="Those that it is run on, if not all.")
    test: bool = Field(False, description="Nothing is trained: `options` and `set` make an option file for testing.")
    parts: dict[str, dict[str, Any]] = Field(
        {}, description="Trained once for each with these changes; their figures are pooled, as in cross-validation."
    )


class Study(_Block):
    """What is compared with what."""

    name: str
    title: str
    seeds: list[int] = Field(min_length=1)
    data: dict[str, str] = Field({}, description="Folders, which stand for ${name} in the values of options.")
    options: str = Field(description="Option file that arms build on, relative to the study file.")
    set: dict[str, Any] = Field({}, description="Changes for all arms.")
    datasets: dict[str, dict[str, Any]] = Field(min_length=1, description="Changes that put an arm on a dataset.")
    arms: dict[str, Arm] = Field(min_length=1)
    compare: list[tuple[str, str]] = Field([], description="[arm, other]: the report gives arm minus other by seed.")
    show: list[str] = Field([], description="Arms whose derained photographs are shown side by side, first seed.")


@dataclass(frozen=True, eq=False)  # each is itself: options cannot be hashed
class Training:
    """One training of a study.

    Attributes:
        dataset: Name of the dataset.
        arm: Name of the arm.
        part: Name of the part; empty if the arm has none.
        seed: The seed.
        options: Complete options, as an option file holds them; for testing if they have no block `train`.
        digest: What tells a training with other options, wherever the study file lies.
    """

    dataset: str
    arm: str
    part: str
    seed: int
    options: dict[str, Any]
    digest: str

    @property
    def place(self) -> str:
        """Folder of the training, relative to the study's."""
        return "/".join((self.dataset, self.arm, *([self.part] if self.part else []), f"seed_{self.seed}"))

    @property
    def trains(self) -> bool:
        """Whether something is trained; else a network that is there is tested."""
        return "train" in self.options

    @property
    def output(self) -> str:
        """Folder of the summary, relative to `place`."""
        return f"{'experiments' if self.trains else 'results'}/{self.options['name']}"


def read_study(path: Path, folders: dict[str, Path]) -> Study:
    """Read a study file.

    Args:
        path: The file.
        folders: Folders of data that replace those of the file.

    Returns:
        The study; its folders are absolute.

    Raises:
        InputError: If something is missing, unknown or does not fit together.
    """
    try:
        study = Study.model_validate(read_yaml(str(path)))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    unknown = folders.keys() - study.data.keys()
    if unknown:
        raise InputError(f"--data: {', '.join(sorted(unknown))} is none of the study's: {', '.join(study.data)}")
    data = {name: str(Path(folders.get(name, folder)).expanduser().resolve()) for name, folder in study.data.items()}
    study = study.model_copy(update={"data": data})
    arms = study.arms
    for name in (study.name, *study.datasets, *arms, *(part for arm in arms.values() for part in arm.parts)):
        if not NAME.fullmatch(name):
            raise InputError(f"{path}: {name!r} names folders, so it may hold letters, digits and _.=,+- only")
    for key, names in (("compare", itertools.chain(*study.compare)), ("show", study.show)):
        for name in names:
            if name not in arms:
                raise InputError(f"{path}: {key}: there is no arm {name!r}; there are {', '.join(arms)}")
    for name, arm in arms.items():
        for dataset in arm.datasets or ():
            if dataset not in study.datasets:
                raise InputError(f"{path}: arms.{name}.datasets: there is no dataset {dataset!r}")
    return study


def trainings(study: Study, path: Path) -> list[Training]:
    """All trainings of a study, seed by seed, so that an unfinished study has whole columns.

    Args:
        study: The study.
        path: Its file.

    Returns:
        The trainings, in the order in which they are to be run.

    Raises:
        InputError: If an option file is unreadable or a ${name} is unknown.
    """
    found = []
    for seed, dataset, (arm_name, arm) in itertools.product(study.seeds, study.datasets, study.arms.items()):
        if arm.datasets is not None and dataset not in arm.datasets:
            continue
        if arm.test and seed != study.seeds[0]:
            continue  # there is nothing random in it
        base = load_yaml(str(path.parent / (study.options if arm.test else arm.options or study.options)))
        for part, changes in (arm.parts or {"": {}}).items():
            options = base
            for layer in (study.set, study.datasets[dataset]):
                options = merged(options, layer, str(path))
            if arm.test:
                options = _testing(options, load_yaml(str(path.parent / arm.options)) if arm.options else {})
            for layer in (arm.set, changes):
                options = merged(options, layer, str(path))
            options.update({"name": study.name, "manual_seed": seed})
            filled = _filled(options, {"here": str(path.parent.resolve()), **study.data}, path)
            text = json.dumps(_filled(options, {"here": "", **study.data}, path), sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()
            found.append(Training(dataset, arm_name, part, seed, filled, digest))
    return found


def _testing(training: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Options that test a network on what the trainings are validated on."""
    datasets = {name: block for name, block in training["datasets"].items() if name != "train" and block is not None}
    return {"model_type": training["model_type"], "num_gpu": training["num_gpu"], **options, "datasets": datasets}


def _filled(value: Any, folders: dict[str, str], path: Path) -> Any:
    """Put folders in the places of ${name}; ${here} is the folder of the study file."""
    if isinstance(value, dict):
        return {key: _filled(item, folders, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, folders, path) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    try:
        return string.Template(value).substitute(folders)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: {value!r}: unknown {error}; `data` names {', '.join(folders) or 'nothing'}"
        ) from error
