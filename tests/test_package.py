"""What importing the package promises."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    MODEL_REGISTRY,
    Registry,
)

import nlcl_plugin
from nlcl_plugin.registry import register, register_in_basicsr

NAMES = {
    ARCH_REGISTRY: (
        *("FeatureEncoder", "LayerGenerator", "PatchDiscriminator", "ProjectionHeads"),
        *("ResidualUNet", "ContextUNet", "SimpleGateUNet"),
    ),
    LOSS_REGISTRY: ("AsymmetricNLCLLoss", "LocationContrastLoss", "RelayLoss"),
    DATASET_REGISTRY: ("UnpairedImageDataset", "PseudoPairDataset"),
    MODEL_REGISTRY: ("NLCLModel", "NLCLSRModel", "NLCLSwinIRModel", "NLCLSRGANModel", "NLCLESRGANModel"),
}


def python(code, cwd=None):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cwd)


def test_every_public_part_is_registered_and_registering_again_is_fine():
    register_in_basicsr()
    for registry, names in NAMES.items():
        for name in names:
            assert registry.get(name).__name__ == name


def test_a_name_that_another_class_took_is_an_error():
    registry = Registry("arch")
    registry.register(type("LayerGenerator", (), {"__module__": "other.package"}))
    with pytest.raises(AssertionError, match="'LayerGenerator' was already registered in 'arch' registry"):
        register(registry, ARCH_REGISTRY.get("LayerGenerator"))


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (
            "import nlcl_plugin.ops, nlcl_plugin.losses, nlcl_plugin.archs",
            {"basicsr", "mmengine", "torchvision", "cv2", "lmdb", "yaml", "pydantic", "skimage"},
        ),
        ("import nlcl_plugin; dir(nlcl_plugin)", {"basicsr", "torch", "numpy"}),
        ("from nlcl_plugin.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass", {"basicsr", "torch"}),
    ],
)
def test_what_is_not_needed_is_not_imported(code, absent):
    done = python(f"{code}\nimport sys; assert not {absent!r} & set(sys.modules), {absent!r} & set(sys.modules)")
    assert done.returncode == 0, done.stderr


def test_the_parts_of_the_package_are_its_attributes_and_no_others():
    assert {name for name in dir(nlcl_plugin) if not name.startswith("__")} == {*nlcl_plugin.__all__} - {"__version__"}
    done = python("import nlcl_plugin as n; n.ops, n.losses.RelayLoss, n.archs, n.data, n.derain, n.train")
    assert done.returncode == 0, done.stderr


def test_basicsr_is_mended_and_has_our_parts_however_it_comes_to_be_imported():
    check = "from basicsr.utils.registry import MODEL_REGISTRY as m, ARCH_REGISTRY as a; assert 'NLCLModel' in m"
    done = python(f"import nlcl_plugin.models.nlcl_mixin; {check}; assert 'LayerGenerator' in a and 'NLCLSRModel' in m")
    assert done.returncode == 0, done.stderr


PACKAGE = Path(nlcl_plugin.__file__).parent
WITH_EXAMPLES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_in_docstrings_print_what_they_say(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.failed == 0
    assert results.attempted > 0
