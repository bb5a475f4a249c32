import io
from types import SimpleNamespace

from nlcl_plugin.data.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(file, **settings):
    for _ in ProgressBar(range(3), desc="derain", file=file, **settings):
        pass
    return file.getvalue()


def test_a_log_gets_lines_in_intervals_and_nothing_of_short_work():
    assert run(io.StringIO()) == ""
    lines = run(io.StringIO(), mininterval=0, delay=1e-9).replace("\r", "").splitlines()
    assert [line.split("|")[0].strip() for line in lines if line] == ["derain:  33%", "derain:  67%", "derain: 100%"]


def test_a_logger_in_place_of_standard_error_is_no_terminal():
    texts = []
    logger = SimpleNamespace(write=texts.append, flush=lambda: None, getvalue=lambda: "".join(texts))
    assert "100%" in run(logger, mininterval=0, delay=1e-9)


def test_a_terminal_gets_a_bar_from_the_start_unless_it_is_switched_off():
    assert "\rderain:   0%" in run(Terminal())
    assert run(Terminal(), shown=False) == ""
