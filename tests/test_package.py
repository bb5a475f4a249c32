"""What importing the package promises."""

import doctest
import importlib
import subprocess
import sys

import pytest
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    MODEL_REGISTRY,
    Registry,
)

from nlcl_plugin.registry import register, register_in_basicsr

NAMES = {
    ARCH_REGISTRY: ("FeatureEncoder", "LayerGenerator", "PatchDiscriminator", "ProjectionHeads", "ResidualUNet"),
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


def test_a_name_that_another_class_took_is_an_error_that_names_both():
    registry = Registry("arch")
    registry.register(type("LayerGenerator", (), {"__module__": "other.package"}))
    with pytest.raises(RuntimeError, match=r"already registered in BasicSR's arch registry by other\.package"):
        register(registry, ARCH_REGISTRY.get("LayerGenerator"))


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {blocked!r} else real(name, package)
"""


def test_a_broken_basicsr_raises_instead_of_passing_for_absent(tmp_path):
    (tmp_path / "basicsr").mkdir()
    (tmp_path / "basicsr" / "__init__.py").write_text("raise OSError('broken installation')")
    done = python(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import nlcl_plugin, basicsr")
    assert "broken installation" in done.stderr


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (
            "import nlcl_plugin.ops, nlcl_plugin.losses, nlcl_plugin.archs",
            {"basicsr", "mmengine", "torchvision", "cv2", "lmdb", "yaml", "pydantic", "skimage"},
        ),
        ("from nlcl_plugin.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass", {"basicsr", "torch"}),
    ],
)
def test_what_is_not_needed_is_not_imported(code, absent):
    done = python(f"{code}\nimport sys; assert not {absent!r} & set(sys.modules), {absent!r} & set(sys.modules)")
    assert done.returncode == 0, done.stderr


def test_basicsr_is_mended_and_has_our_parts_however_it_comes_to_be_imported():
    check = "from basicsr.utils.registry import MODEL_REGISTRY as m, ARCH_REGISTRY as a; assert 'NLCLModel' in m"
    done = python(f"import nlcl_plugin.models.nlcl_mixin; {check}; assert 'LayerGenerator' in a and 'NLCLSRModel' in m")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "nlcl_plugin.archs.feature_encoder_arch",
        "nlcl_plugin.archs.layer_generator_arch",
        "nlcl_plugin.archs.patch_discriminator_arch",
        "nlcl_plugin.archs.projection_heads_arch",
        "nlcl_plugin.archs.residual_unet_arch",
        "nlcl_plugin.losses.layer_contrast_loss",
        "nlcl_plugin.losses.location_contrast_loss",
        "nlcl_plugin.losses.relay_loss",
        "nlcl_plugin.data.files",
        "nlcl_plugin.metrics.classical_filters",
        "nlcl_plugin.metrics.quality",
        "nlcl_plugin.models.optimization",
        "nlcl_plugin.ops.intrinsic_dimension",
        "nlcl_plugin.ops.patch_search",
        "nlcl_plugin.ops.patch_sets",
        "nlcl_plugin.ops.sampling",
    ],
)
def test_examples_in_docstrings_print_what_they_say(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.failed == 0
    assert results.attempted > 0
