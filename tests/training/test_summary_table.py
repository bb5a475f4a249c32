import pytest

from nlcl_plugin.training.summary import table

PAIRS = {"ssim": dict.fromkeys(("rainy", "baseline", "derained", "clean"), 0.9), "baseline": "median", "images": 3}


COPIES = "nothing was learnt: the network copies its input (mean |O - B| 0.00040)"


@pytest.mark.parametrize(
    ("gain", "change", "warnings"),
    [(1.2, 0.01, []), (0.1, 0.0004, [COPIES]), (-0.3, 0.01, ["deraining does not help these images: -0.30 dB"])],
)
def test_a_network_that_copies_its_input_or_does_harm_is_named(gain, change, warnings):
    decibels = {"rainy": 25.0, "baseline": 24.0, "derained": 25.0 + gain, "clean": 40.0}
    text = table({"val": {**PAIRS, "psnr": decibels, "mean_change": change}}, {})
    assert ("learnt" in text) + ("does not help" in text) == len(warnings)
    assert all(warning in text for warning in warnings)
