"""What the README and docs/ link to and name exists; their commands are run by test_docs_commands."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nlcl_plugin.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_loop_trains_where_there_is_no_framework_but_torch(repository, tmp_path):
    page = (repository / "docs" / "losses.md").read_text(encoding="utf-8")
    (loop,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    frameworks = {"basicsr", "mmengine", "torchvision", "cv2", "lmdb", "yaml", "pydantic", "skimage"}
    blocked = f"import sys, torch\nsys.modules.update(dict.fromkeys({frameworks!r}))\ntorch.manual_seed(0)\n"
    command = [sys.executable, "-c", blocked + loop]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    losses = [float(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_links_to_exist(repository, page):
    path = repository / page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_readme_leads_to_every_page(repository):
    found, todo = set(), [repository / "README.md"]
    while todo:
        path = todo.pop()
        for target in re.findall(r"\]\((?!https?:)([^)#]+\.md)\)", path.read_text(encoding="utf-8")):
            other = (path.parent / target).resolve()
            if other not in found:
                found.add(other)
                todo.append(other)
    assert {path.resolve() for path in (repository / "docs").rglob("*.md")} <= found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_shown_names_files_and_flags_that_exist(repository, page):
    text = (repository / page).read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.split("\n")]
    commands += re.findall(r"`((?:python tools/|basicsr )[^`]+)`", text)
    for command in commands:
        command = " ".join(command.split("#")[0].split())
        script = re.search(r"(?:python |sbatch |mm_train|pytest)?(tools/\S+\.(?:py|sh))", command)
        for file in re.findall(r"options/\S+\.(?:yml|py)", command):
            assert (repository / file).is_file(), command
        flags = re.findall(r"(?<= )--[a-z][a-z_-]+", command)
        if command.startswith("basicsr"):
            assert set(flags) <= known_flags(command), command
        elif script:
            known = (repository / script[1]).read_text(encoding="utf-8")
            known += "".join(
                path.read_text(encoding="utf-8") for path in (repository / "tools/benchmarks").glob("*.py")
            )
            for flag in flags if command.startswith("python tools") else ():
                assert flag == "--help" or f'"{flag.replace("--no-", "--")}"' in known, (command, flag)


def known_flags(command):
    """The flags that `basicsr` takes with the sub-commands of a line."""
    parser = build_parser()
    for word in command.split()[1:]:
        inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not inner or word.startswith("-"):
            break
        parser = inner[0].choices[word]
    return set(parser._option_string_actions)


INTERVAL = re.compile(r"([+−-]\d+\.\d\d)\s+to\s+([+−-]\d+\.\d\d)")


@pytest.mark.parametrize("page", ["README.md", "docs/method.md"])
def test_every_interval_that_is_told_stands_in_a_study_that_is_linked_beside_it(repository, page):
    path = repository / page
    told = 0
    before = ""  # a table's study may be named in the paragraph above it
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        intervals = {(low.replace("−", "-"), high.replace("−", "-")) for low, high in INTERVAL.findall(block)}
        links = re.findall(r"\]\(([^)]*studies/\w+\.md)\)", before + block)
        before = block
        found = set()
        for link in links:
            study = (path.parent / link).read_text(encoding="utf-8")
            found |= {(low.replace("−", "-"), high.replace("−", "-")) for low, high in INTERVAL.findall(study)}
        assert intervals <= found, (sorted(intervals - found), block[:80])
        told += len(intervals)
    assert told or page == "README.md"
