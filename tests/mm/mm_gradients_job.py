"""Gradients of one step of each stage on this process's share of a batch; run by test_derain."""

import sys

import torch
import torch.distributed as dist
from mm_helpers import batch, build, optimizers

IMAGES = 4


def gradients(rank=0, processes=1):
    """Gradients by stage and parameter, and the logs."""
    model = build()
    if processes > 1:
        from mmengine.model import MMSeparateDistributedDataParallel

        wrapped = MMSeparateDistributedDataParallel(model, device_ids=None)
    else:
        wrapped = model
    wrappers = optimizers(wrapped)
    data = batch(n=IMAGES)
    share = {key: value[rank::processes] for key, value in data.items()}
    share = {**share, "lq": share["lq"].double(), "gt": share["gt"].double()}
    found, logs = {}, []
    for stage in (1, 2):
        logs.append(wrapped.train_step(share, optim_wrapper=wrappers))
        for name, value in model.named_parameters():
            if value.grad is not None:
                found[f"{stage} {name.replace('module.', '')}"] = value.grad.clone()
    return found, logs


def main(folder):
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo")
    torch.save(gradients(dist.get_rank(), 2), f"{folder}/rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
