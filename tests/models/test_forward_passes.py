"""Every forward pass of a step is one that a loss needs, and none is taken twice."""

from collections import defaultdict

import torch
from model_helpers import batch, build

import nlcl_plugin  # noqa: F401  before BasicSR, which it mends
from nlcl_plugin.config.option_files import load_yaml

SMALL = {"num_feat": 8}


def model_of(repository, name):
    """The option file's model with its losses, but narrow networks and few patches; the generators keep their taps."""
    opt = load_yaml(str(repository / "options" / name))
    opt.update(num_gpu=0, dist=False, rank=0, world_size=1, is_train=True)
    for key in ("network_g", "network_r", "network_d", "network_s", "network_p"):
        if key in opt:
            opt[key].update(SMALL)
    for block in ("layer_opt", "location_opt"):
        sampling = opt["train"].get(block, {}).get("sampling")
        if sampling:
            few = {"num_patches": 8} if block == "location_opt" else {"num_rain_patches": 16, "search_size": 10}
            sampling.update(few)
    return build(opt)


def forward_passes(model, images):
    """Shapes of what each network is given in a step, by its label, and whether it came out with a gradient."""
    passes = defaultdict(list)
    for label, net in model.nets.items():
        net.register_forward_hook(lambda _, args, out, label=label: passes[label].append((args[0], out)))
    model.feed_data(images)
    model.optimize_parameters(1)
    return passes


def sizes(passes):
    return {label: [len(x) for x, _ in taken] for label, taken in passes.items() if label != "p"}


def test_the_papers_setting_takes_two_generator_and_two_discriminator_passes(repository):
    model, images = model_of(repository, "nlcl.yml"), batch(n=1, size=64)
    passes = forward_passes(model, images)
    # g: O and C together, then the outputs of both for their features; r: O; d: B and R, then C and B to learn from.
    assert sizes(passes) == {"g": [2, 2], "r": [1], "d": [2, 2]}
    assert len(passes["p"]) == 1
    first, second = passes["g"]
    assert torch.equal(first[0], torch.cat((images["lq"], images["gt"])))
    outputs, features = first[1]
    assert torch.equal(second[0], outputs)
    assert len(features) == len(second[1]) == 5
    image, rain = outputs[:1], passes["r"][0][1]
    judged, to_learn = passes["d"]
    assert torch.equal(judged[0], torch.cat((image, rain)))
    assert torch.equal(to_learn[0], torch.cat((images["gt"], image)))
