"""Network files for tests of deraining."""

import torch

from nlcl_plugin.networks.about import describe


def save_network(path, net, label="s", seed=0):
    """Save a network with random weights that changes what it gets, with what it is; returns it."""
    torch.manual_seed(seed)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    block = {"type": type(net).__name__}
    if hasattr(net, "layer"):
        block.update(layer=net.layer, num_out_ch=list(net.parameters())[-1].shape[0])
    # Of a small network the sizes are not kept as attributes everywhere; they follow from the weights.
    first = next(iter(net.parameters()))
    block["num_feat"] = first.shape[0]
    if hasattr(net, "num_block"):
        block["num_block"] = net.num_block
    torch.save({"params": net.state_dict(), "about": describe(block, label)}, path)
    return net.eval().requires_grad_(False)
