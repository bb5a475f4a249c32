"""docs/options.md says what the code does, and all of it."""

import re

from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY
from options_reference import main, reference

from nlcl_plugin.config.option_files import load_yaml


def test_the_reference_is_what_its_command_makes_now(repository, tmp_path):
    out = tmp_path / "options.md"
    assert main(["--output", str(out)]) == 0
    assert out.read_text(encoding="utf-8") == (repository / "docs" / "options.md").read_text(encoding="utf-8"), (
        "run python tools/options_reference.py --output docs/options.md"
    )


def test_every_option_of_our_parts_and_of_every_option_file_is_in_it(repository):
    listed = set(re.findall(r"^\| `(\w+?)X?` \|", reference(), re.MULTILINE))

    def keys(block):
        for key, value in block.items():
            yield key
            if isinstance(value, dict):
                yield from keys(value)

    ours = [cls for registry in (ARCH_REGISTRY, LOSS_REGISTRY, DATASET_REGISTRY) for _, cls in registry]
    names = {cls.__name__ for cls in ours if cls.__module__.startswith("nlcl_plugin.")}
    assert {f"`type: {name}`" for name in names} <= set(re.findall(r"^### (`type: \w+`)$", reference(), re.MULTILINE))
    for name, cls in DATASET_REGISTRY:
        if name in names:
            assert set(cls.OPTION_KEYS) <= listed
    for file in ("nlcl.yml", "nlcl_quickstart.yml", "nlcl_4gpu.yml", "restorer_from_bank.yml", "nlcl_test.yml"):
        options = load_yaml(str(repository / "options" / file))
        stock = {"gan_type", "eps", "milestones", "gamma", "betas", "weight_decay", "psnr", "crop_border",
                 "test_y_channel", "pixel_opt", "train", "val", "val_2", "test"}  # fmt: skip
        found = {re.sub(r"^(pretrain_network|param_key|strict_load|network)_\w$", r"\1_", key) for key in keys(options)}
        assert found - stock - {"network_"} <= listed, file
