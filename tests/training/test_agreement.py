"""What processes agree on, in two real ones."""

import subprocess
import sys

import pytest

AGREE = """
import time
import torch.distributed as dist
from nlcl_plugin.training.distributed import Agreement
dist.init_process_group("gloo")
rank = dist.get_rank()
agreement = Agreement(timeout=3)
said = f"{agreement.any(False)} {agreement.any(rank == 1)}\\n"
print(said, end="", flush=True)  # at once, as the other process writes there too
if rank == 1:
    time.sleep(6)  # it is late
else:
    try:
        agreement.any(False)
    except RuntimeError:
        print("waited no longer", flush=True)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_one_is_enough_and_nobody_waits_longer_than_asked_to(tmp_path):
    (tmp_path / "agree.py").write_text(AGREE)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "agree.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.count("False True") == 2, done.stderr
    assert done.stdout.count("waited no longer") == 1
