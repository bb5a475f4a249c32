import re

import pytest

from nlcl_plugin.training.summary import verdict

GOOD = {"mean_change": 0.02, "clean_change": 0.005}


@pytest.mark.parametrize(
    ("gain", "changes", "expected"),
    [
        (
            3.0,
            {},
            ["does better than the best classical filter (+3.00 dB over the rainy image, +1.00 dB over the filter)"],
        ),
        (1.2, {}, ["the best classical filter does better"]),
        (-0.3, {}, ["does not help these images"]),
        (0.1, {"mean_change": 0.0004}, ["changes nothing (mean |O - B| 0.00040)", "filter does better"]),
        (3.0, {"clean_change": 0.011}, ["is not only rain: clean images lose 0.0110", "than the best classical"]),
    ],
)
def test_a_verdict_says_what_a_network_does_and_where_to_read_on(repository, gain, changes, expected):
    psnr = {"rainy": 25.0, "baseline": 27.0, "derained": 25.0 + gain, "clean": 40.0}
    lines = verdict({"val": {**GOOD, **changes, "psnr": psnr}}, {})
    assert len(lines) == len(expected)
    for line, part in zip(lines, expected, strict=True):
        assert line.startswith("val: ")
        assert part in line
        for title in re.findall(r'see "(.+)" in docs/faq.md', line):
            assert f"**{title}" in (repository / "docs/faq.md").read_text(encoding="utf-8")


def test_photographs_without_pairs_get_a_verdict_only_if_nothing_is_taken():
    assert verdict({}, {"mine": {"mean_change": 0.01}}) == []
    assert "mine: the network changes nothing" in verdict({}, {"mine": {"mean_change": 0.0}})[0]
