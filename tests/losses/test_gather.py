"""Rows of all processes and their gradients, in two real ones."""

from training_helpers import torchrun

GATHER = """
import torch, torch.distributed as dist
from nlcl_plugin.losses.gather import gather_rows
dist.init_process_group("gloo")
rank = dist.get_rank()
x, y = (torch.full((1, 2), value, requires_grad=True) for value in (1.0 + rank, 10.0 + rank))
gathered = gather_rows(x) + gather_rows(y)  # autograd hands the sum's gradient to both as it is
assert gathered.tolist() == [[11.0, 11.0], [13.0, 13.0]]
weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * (1 + rank)
(gathered * weight).sum().backward()
expected = 3 * torch.tensor([[1.0, 2.0], [3.0, 4.0]])[rank : rank + 1]  # of both processes' losses
assert torch.equal(x.grad, expected), x.grad
assert torch.equal(y.grad, expected), y.grad
dist.destroy_process_group()
"""


def test_rows_bring_the_gradients_of_all_processes_back_and_alter_no_other(tmp_path):
    done = torchrun(tmp_path, GATHER)
    assert done.returncode == 0, done.stderr
