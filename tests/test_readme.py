"""What the README shows must run."""

import re
import subprocess
import sys

import yaml


def test_python_example_runs(repository, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_files_that_the_readme_links_to_exist(repository):
    text = (repository / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (repository / target).exists(), target


def test_option_files_say_how_to_run_them_and_name_their_experiment(repository):
    files = sorted((repository / "options").glob("*.yml"))
    assert {"nlcl.yml", "nlcl_quickstart.yml", "nlcl_test.yml"} <= {file.name for file in files}
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert f"basicsr {'test' if 'test' in file.stem else 'train'} -opt options/{file.name}" in text
        assert yaml.safe_load(text)["name"] == file.stem
