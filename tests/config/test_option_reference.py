"""docs/options.md says what the code does, and all of it."""

from options_reference import main


def test_the_reference_is_what_its_command_makes_now(repository, tmp_path):
    out = tmp_path / "options.md"
    assert main(["--output", str(out)]) == 0
    assert out.read_text(encoding="utf-8") == (repository / "docs" / "options.md").read_text(encoding="utf-8"), (
        "run python tools/options_reference.py --output docs/options.md"
    )
