import pytest
import torch

from nlcl_plugin.losses import RelayLoss, lay_rain


def test_additive_composite_is_the_clipped_sum_and_screen_stays_in_the_range():
    clean, rain = torch.rand(2, 3, 5, 7), torch.rand(2, 1, 5, 7)
    torch.testing.assert_close(lay_rain(clean, rain), (clean + rain).clamp(max=1))
    torch.testing.assert_close(lay_rain(clean, rain, blend="screen"), 1 - (1 - clean) * (1 - rain))


def test_rain_gets_no_gradient():
    rain = torch.full((1, 1, 2, 2), 0.1, requires_grad=True)
    clean = torch.zeros(1, 3, 2, 2, requires_grad=True)
    lay_rain(clean, rain).sum().backward()
    assert rain.grad is None
    assert clean.grad is not None


def test_loss_is_the_weighted_mean_absolute_difference():
    derained, clean = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert RelayLoss(loss_weight=8.0)(derained, clean).item() == pytest.approx(
        8 * (derained - clean).abs().mean().item()
    )
