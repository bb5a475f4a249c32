"""Train every arm of a study on every dataset with every seed, and write a table and a plot.

Usage: python tools/ablate.py options/studies/models.yml [--data rain100h=FOLDER] [--jobs 2] [--work studies]

All arms use the same seeds, and so the same minibatches and crops, so that differences can be taken seed by seed.
Runs with a result are skipped, so an interrupted study continues, and a new arm costs only itself. Each training has
a folder WORK/STUDY/DATASET/ARM/seed_N with its options, log and experiment; the report is WORK/STUDY/report.md, .png
and .json.

exit codes: 0 done; 2 bad usage or input; 3 done, but some trainings failed (listed); 5 interrupted, states saved
"""

import argparse
import signal
import sys
from pathlib import Path

from studies.execute import run_all
from studies.plan import read_study, trainings
from studies.report import write_study_report

from nlcl_plugin.errors import InputError, exit_code_of


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="STUDY.yml")
    parser.add_argument("--work", type=Path, default=Path("studies"), help="folder to train in (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default: %(default)s)")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=FOLDER", help="where the study's data is")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the study's")
    parser.add_argument("--datasets", nargs="+", help="some of the study's")
    parser.add_argument("--arms", nargs="+", help="some of the study's")
    parser.add_argument("--report-only", action="store_true", help="report what is there; train nothing")
    parser.add_argument("--out", type=Path, help="also write the report here: FOLDER/STUDY.md and images/STUDY.png")
    arguments = parser.parse_args(argv)
    return exit_code_of(lambda: _ablate(arguments))


def _ablate(arguments) -> int:
    if arguments.jobs < 1:
        raise InputError(f"--jobs: expected at least 1, but received {arguments.jobs}")
    folders = dict(_named(entry) for entry in arguments.data)
    study = read_study(arguments.study, folders)
    found = trainings(study, arguments.study)
    for key, wanted in (("seed", arguments.seeds), ("dataset", arguments.datasets), ("arm", arguments.arms)):
        if wanted and key == "seed":
            study = study.model_copy(update={"seeds": wanted})
            found = trainings(study, arguments.study)
        elif wanted:
            unknown = set(wanted) - {getattr(training, key) for training in found}
            if unknown:
                raise InputError(f"--{key}s: the study has no {key} {', '.join(sorted(unknown))}")
            found = [training for training in found if getattr(training, key) in wanted]
    folder = (arguments.work / study.name).resolve()
    for number in (signal.SIGINT, signal.SIGTERM):  # the first is ignored in what a shell starts in the background
        signal.signal(number, signal.default_int_handler)
    failures = [] if arguments.report_only else run_all(found, folder, arguments.jobs)
    text = write_study_report(
        study, found, folder, out=arguments.out, command=f"python tools/ablate.py {arguments.study}"
    )
    print(text)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 3 if failures else 0


def _named(entry: str) -> tuple[str, Path]:
    name, separator, folder = entry.partition("=")
    if not separator or not folder:
        raise InputError(f"--data: expected NAME=FOLDER, but received {entry!r}")
    if not Path(folder).expanduser().is_dir():
        raise InputError(f"--data {name}: there is no folder {folder!r}")
    return name, Path(folder)


if __name__ == "__main__":
    sys.exit(main())
