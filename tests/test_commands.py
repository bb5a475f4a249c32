"""The frame of all commands: option files of the package, modules of the user's, and the tools as scripts."""

import filecmp
import os
import re
import subprocess
import sys

import pytest
import torch
from training_helpers import tiny_options, write_options

import nlcl_plugin
from nlcl_plugin.cli import main
from nlcl_plugin.commands.prepare import LAYOUT_NAMES
from nlcl_plugin.prepare import LAYOUTS

MINE = """
import torch
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class {name}(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x)
"""
TOOLS = {
    "derain": "derain", "report": "report", "export": "export", "extract_rain_layers": "bank",
    "prepare_rain_dataset": "prepare", "convert_official_weights": "convert", "create_lmdb": "lmdb create",
    "verify_lmdb": "lmdb verify",
}  # fmt: skip


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """The current folder, with nothing in it; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("mine", "archs", "broken"):
            del sys.modules[name]


def test_option_files_of_the_package_are_found_by_name_from_any_folder(folder, capsys):
    assert main(["check", "-opt", "options/nlcl_quickstart.yml"]) == 0
    printed = capsys.readouterr()
    assert "nlcl_quickstart: trains NLCLModel" in printed.out
    assert re.match(
        r"options/nlcl_quickstart.yml: using the package's option file \S+nlcl_quickstart.yml\n", printed.err
    )


def test_a_file_of_ones_own_comes_first_and_may_build_on_one_of_the_package(folder, capsys):
    (folder / "nlcl_quickstart.yml").write_text("_base_: options/nlcl_small.yml\nname: my_own\n")
    entries = [f"datasets:train:dataroot_{key}={name}" for key, name in (("lq", "rainy"), ("gt", "clean"))]
    small = ["datasets:train:gt_size=32", "datasets:train:batch_size_per_gpu=1"]
    assert main(["check", "-opt", "nlcl_quickstart.yml", "--force_yml", *entries, *small]) == 0
    printed = capsys.readouterr()
    assert "my_own: trains NLCLModel" in printed.out
    assert "options/nlcl_small.yml: using the package's option file" in printed.err


def test_options_are_listed_with_a_line_each_and_copied_as_they_are(empty, repository, capsys):
    assert main(["options"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    own = {path.name for path in (repository / "options").glob("*.yml")}
    assert {name for name in lines if not name.startswith("mmengine/")} == own
    assert "mmengine/nlcl_rain.py" in lines
    assert all(10 < len(lines[name]) < 140 for name in own)
    assert main(["options", "--copy", "my options"]) == 0
    for name in lines:
        assert filecmp.cmp(empty / "my options" / name, repository / "options" / name, shallow=False)
    assert main(["check", "-opt", "my options/nlcl_quickstart.yml"]) == 0  # it has its bases
    assert "option file" not in capsys.readouterr().err


def test_a_copy_replaces_no_edited_file(empty, capsys):
    assert main(["options", "--copy", "mine"]) == 0
    written = capsys.readouterr().out
    assert re.fullmatch(r"mine: \d+ option files written\n", written)
    assert main(["options", "--copy", "mine"]) == 0
    assert capsys.readouterr().out == written.replace("mine: ", "mine: 0 option files written, ").replace(
        "option files written\n", "already there\n"
    )
    (empty / "mine" / "nlcl.yml").write_text("name: edited")
    (empty / "mine" / "nlcl_4gpu.yml").unlink()
    assert main(["options", "--copy", "mine"]) == 2
    assert "nlcl.yml: is another file" in capsys.readouterr().err
    assert (empty / "mine" / "nlcl.yml").read_text() == "name: edited"
    assert not (empty / "mine" / "nlcl_4gpu.yml").exists()  # all or nothing


def test_ones_own_architecture_trains_derains_and_is_exported(folder, capsys):
    (folder / "archs").mkdir()
    (folder / "archs" / "my_arch.py").write_text(MINE.format(name="OwnNet"))
    options = tiny_options()
    options["network_s"] = {"type": "OwnNet"}
    options["train"]["total_iter"] = 4
    path = str(write_options(folder, options))
    assert main(["check", "-opt", path]) == 2
    assert "no arch is named 'OwnNet'" in capsys.readouterr().err
    own = ["--import", "archs.my_arch"]
    try:
        assert main(["train", "-opt", path, *own]) == 0
        assert main(["derain", "rainy", "--output", "derained", "--weights", "experiments/tiny", *own]) == 0
        assert main(["export", "experiments/tiny", "--output", "own.safetensors", *own]) == 0
    finally:
        from basicsr.utils.registry import ARCH_REGISTRY

        ARCH_REGISTRY._obj_map.pop("OwnNet", None)
        sys.modules.pop("archs.my_arch", None)
        sys.modules.pop("archs", None)
    assert len(list((folder / "derained").glob("*.png"))) == len(list((folder / "rainy").glob("*.png")))
    capsys.readouterr()
    assert main(["derain", "rainy", "--output", "again", "--weights", "own.safetensors"]) == 2
    assert "give --import MODULE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (os.path.join("archs", "my_arch.py"), "expected the name of a module, such as archs.mine, not its file"),
        ("mine", "there is no module 'mine'"),
        ("archs.absent", "there is no module 'archs.absent'"),
    ],
)
def test_a_module_that_is_not_there_is_one_line(empty, capsys, name, words):
    (empty / "archs").mkdir()
    assert main(["options", "--import", name]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import torch_that_is_absent", "ModuleNotFoundError: No module named 'torch_that_is_absent'"),
        ("import torch; torch.zeros('a')", "TypeError: zeros()"),
        ("x = = 1", "SyntaxError: invalid syntax"),
    ],
)
def test_a_fault_in_ones_own_module_is_one_line_with_its_place(empty, capsys, line, error):
    (empty / "broken.py").write_text(f"\n{line}\n")
    assert main(["lmdb", "verify", "x.lmdb", "--import", "broken"]) == 2
    assert capsys.readouterr().err.startswith(f"error: --import broken: broken.py, line 2: {error}")


@pytest.mark.parametrize("arguments", [["options"], ["--print-completion", "bash"]])
def test_a_reader_that_has_enough_ends_a_command_quietly(arguments):
    command = [sys.executable, "-m", "nlcl_plugin", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_an_unknown_switch_is_refused_with_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["lmdb", "verify", "x.lmdb", "--agianst", "y"])
    assert "basicsr lmdb verify: error: unrecognized arguments: --agianst y" in capsys.readouterr().err


def test_training_as_a_function_returns_the_folder_that_derain_takes(folder, monkeypatch):
    options = tiny_options()
    options["train"]["total_iter"] = 4
    given_back = []
    monkeypatch.setattr("nlcl_plugin.training.run.give_back_freed_memory", lambda **how: given_back.append(how))
    experiment = nlcl_plugin.train(options, force_yml=["name=called"], root=folder / "place")
    assert given_back == [{"from_now_on": True}]  # a notebook goes on
    assert experiment == folder / "place" / "experiments" / "called"
    assert (experiment / "models" / "net_s_latest.pth").is_file()
    derained = nlcl_plugin.derain(torch.rand(3, 32, 40), experiment)
    assert derained.shape == (3, 32, 40)


@pytest.mark.parametrize(("tool", "command"), TOOLS.items())
def test_each_tool_is_its_command(repository, tool, command):
    script = repository / "tools" / f"{tool}.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: basicsr {command} ")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("lmdb create --input in --output x.lmdb --crop 0", "--crop: expected a whole number from 1 to 65535"),
        (
            "prepare in --output out --val-fraction 1.5",
            "--val-fraction: expected a number from 0 to 1, but received 1.5",
        ),
        ("derain in --output out --batch many", "--batch: expected a whole number from 1, but received many"),
    ],
)
def test_numbers_have_a_range(capsys, command, words):
    with pytest.raises(SystemExit, match="2"):
        main(command.split())
    assert words in capsys.readouterr().err


def test_a_shell_completes_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    for word in ("train", "derain", "lmdb", "create", "--longest-side", "--against"):
        assert re.search(rf"[ (]{word}[ )]", script), word


def test_the_layouts_of_the_command_are_those_of_the_package():
    assert tuple(LAYOUTS) == LAYOUT_NAMES
