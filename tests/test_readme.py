"""What the README shows must run."""

import re
import subprocess
import sys

import pytest
import yaml
from test_package import BLOCKED


def python_examples(repository):
    return re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def run(code, folder):
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_loop_trains_where_there_is_no_framework_but_torch(repository, tmp_path):
    _, loop = python_examples(repository)
    frameworks = {"basicsr", "mmengine", "torchvision", "cv2", "lmdb", "yaml", "pydantic", "skimage"}
    lines = run(BLOCKED.format(blocked=frameworks) + "import torch; torch.manual_seed(0)\n" + loop, tmp_path).split(
        "\n"
    )
    losses = [float(line.split()[1]) for line in lines if line]
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_files_that_the_readme_links_to_exist(repository):
    text = (repository / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (repository / target).exists(), target


def test_option_files_say_how_to_run_them_and_name_their_experiment(repository):
    files = sorted((repository / "options").glob("*.yml"))
    assert {"nlcl.yml", "nlcl_quickstart.yml", "nlcl_test.yml"} <= {file.name for file in files}
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert f"{'test' if 'test' in file.stem else 'train'} -opt options/{file.name}" in text
        assert yaml.safe_load(text)["name"] == file.stem


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
