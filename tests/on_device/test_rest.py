"""Validation, checkpoints, mix-ins, inference and MMEngine on a pretended device."""

import copy

import addon_helpers
import mm_helpers
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from model_helpers import RESTORER, batch, build, options, step
from pretended_device import DeviceTensor, waits

from nlcl_plugin.inference.derain import ImageDerainer


def device_states(value):
    """All tensors in nested dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in device_states(part)]


def test_training_goes_on_from_a_checkpoint_on_the_device_and_pictures_are_on_the_cpu(tmp_path, device):
    auto = options(tmp_path)["train"]["layer_opt"] | {"asymmetry": "auto"}
    opt = options(tmp_path, layer_opt=auto, dimension_freq=1, **RESTORER)
    through = build(opt)
    step(through, 1)
    through.save(0, 1)
    again = copy.deepcopy(opt)
    again["path"] |= {f"pretrain_network_{label}": str(tmp_path / f"net_{label}_1.pth") for label in through.nets}
    resumed = build(again)
    resumed.resume_training(torch.load(tmp_path / "1.state", weights_only=True))
    moments = [m for o in resumed.optimizers for s in o.state.values() for key, m in s.items() if key != "step"]
    assert moments
    assert all(isinstance(moment, DeviceTensor) for moment in moments)
    for current_iter in (2, 3):  # the third is of stage 2
        assert step(resumed, current_iter) == step(through, current_iter)
    resumed.feed_data({"lq": batch()["lq"][:1], "gt": batch()["gt"][:1]})
    resumed.test()
    assert isinstance(resumed.output, DeviceTensor)
    assert not any(isinstance(image, DeviceTensor) for image in resumed.get_current_visuals().values())


@pytest.mark.parametrize(
    ("model", "features"),
    [
        ("SRModel", addon_helpers.GENERATOR),
        ("SwinIRModel", addon_helpers.ENCODER),
        ("SRGANModel", addon_helpers.DISCRIMINATOR),
        ("ESRGANModel", addon_helpers.DISCRIMINATOR),
    ],
)
def test_mix_ins_train_on_the_device(tmp_path, device, model, features):
    opt = addon_helpers.options(tmp_path, model, features, location_opt=addon_helpers.LOCATION)
    if features is addon_helpers.DISCRIMINATOR:
        opt["train"]["perceptual_opt"] = None
    log = addon_helpers.step(build(opt), 1)
    assert np.isfinite(list(log.values())).all()


def test_images_are_derained_on_the_device_and_come_back(device, monkeypatch):
    monkeypatch.setattr("nlcl_plugin.inference.derain._find_device", lambda _: device)
    image = torch.rand(1, 3, 24, 80)
    network = ImageDerainer("demo", adaptive=True, keep_colours=True, strength=2.0, longest_side=64)
    assert all(isinstance(p, DeviceTensor) for p in network.derainer.net.parameters())
    assert not isinstance(network.tensor(image), DeviceTensor)
    assert isinstance(network.tensor(image.to(device)), DeviceTensor)
    assert isinstance(network.array((image[0].permute(1, 2, 0) * 255).byte().numpy()), np.ndarray)


def collated(batch):
    """What MMEngine's loaders make of the samples of a batch."""
    return pseudo_collate([dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)])


def test_mmengine_trains_and_validates_on_the_device(device, monkeypatch):
    model = mm_helpers.build().to(device)
    model.data_preprocessor._device = device  # what MMEngine sets where it knows the device
    optimizers = mm_helpers.optimizers(model)
    for seed in (0, 1):  # either stage
        inputs = collated(mm_helpers.batch(seed))
        waits.clear()
        log = model.train_step(inputs, optimizers)
        found = [wait.rsplit(":")[0] for wait in waits if "patch_search" not in wait]
        # MMEngine's transfer of lq and gt blocks unless its preprocessor is told not to; then comes its progress.
        copies = ["copy to the device at derain.py"] * 2
        assert found == [*copies, "tolist at derain.py", "tolist at unpaired_iteration.py"], waits
        assert all(torch.isfinite(value).all() for value in log.values() if isinstance(value, torch.Tensor))
    model.eval()
    (found,) = model.val_step(collated({key: value[:1] for key, value in mm_helpers.batch().items()}))
    assert not any(isinstance(found[key], DeviceTensor) for key in ("lq", "gt", "result", "rain"))
