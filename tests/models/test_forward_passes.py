"""Every forward pass of a step is one that a loss needs, and none is taken twice."""

from collections import defaultdict

import torch
from model_helpers import batch, build

from nlcl_plugin.config.option_files import load_yaml


def test_the_papers_setting_takes_two_generator_and_two_discriminator_passes(repository):
    """With narrow networks and few patches; the generators keep their taps."""
    opt = load_yaml(str(repository / "options" / "nlcl.yml"))
    opt.update(num_gpu=0, dist=False, rank=0, world_size=1, is_train=True)
    for key in ("network_g", "network_r", "network_d", "network_p"):
        opt[key]["num_feat"] = 8
    opt["train"]["layer_opt"]["sampling"].update(num_rain_patches=16, search_size=10)
    opt["train"]["location_opt"]["sampling"].update(num_patches=8)
    model, images, passes = build(opt), batch(n=1, size=64), defaultdict(list)
    for label, net in model.nets.items():
        net.register_forward_hook(lambda _, args, out, label=label: passes[label].append((args[0], out)))
    model.feed_data(images)
    model.optimize_parameters(1)
    heads = passes.pop("p")
    assert len(heads) == 1
    # g: O and C together, then the outputs of both for their features; r: O; d: B and R, then C and B to learn from.
    sizes = {label: [len(given) for given, _ in taken] for label, taken in passes.items()}
    assert sizes == {"g": [2, 2], "r": [1], "d": [2, 2]}
    first, second = passes["g"]
    assert torch.equal(first[0], torch.cat((images["lq"], images["gt"])))
    outputs, features = first[1]
    assert torch.equal(second[0], outputs)
    assert len(features) == len(second[1]) == 5
    image, rain = outputs[:1], passes["r"][0][1]
    judged, to_learn = passes["d"]
    assert torch.equal(judged[0], torch.cat((image, rain)))
    assert torch.equal(to_learn[0], torch.cat((images["gt"], image)))
