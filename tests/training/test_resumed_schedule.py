import pytest
import torch

from nlcl_plugin.config.train_options import Built
from nlcl_plugin.models.optimization import build_scheduler
from nlcl_plugin.training.train import _without_effect

SCHEDULES = {
    "LinearDecayLR": ({"decay_from": 0.9}, {"decay_from": 0.1}),
    "MultiStepLR": ({"milestones": [90], "gamma": 0.1}, {"milestones": [10], "gamma": 0.1}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_warning_says_where_a_resumed_schedule_does_not_follow_its_changed_options(name):
    """Judged by what the schedules do: one that resumes a state, against one that had the new options all along."""

    def rates(begun_with, resumed_with):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        first, second = (build_scheduler(Built(type=name, **o), optimizer, 100) for o in (begun_with, resumed_with))
        second.load_state_dict(first.state_dict())
        found = []
        for _ in range(20):
            optimizer.step()
            second.step()
            found.append(second.get_last_lr()[0])
        return found

    old, new = SCHEDULES[name]
    follows = rates(old, new) != pytest.approx(rates(old, old))
    change = [f"train.scheduler.{next(iter(old))}: old → new"]
    assert bool(_without_effect(change, {"train": {"scheduler": {"type": name}}})) == (not follows)
