"""Run the quickstart with several seeds and numbers of threads; write the table and the picture of the documentation.

Usage: python tools/reproduce_quickstart.py [--seeds 0 1 2 3 4] [--threads 1 2] [--out docs]

Each run is `OMP_NUM_THREADS=THREADS basicsr train -opt options/nlcl_quickstart.yml` with another manual_seed, one after
the other. A run that is finished in the folder of --work is not repeated.
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import yaml
from PIL import Image
from studies.all_filters import best_of_all

OPTIONS = Path(__file__).resolve().parent.parent / "options" / "nlcl_quickstart.yml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=OPTIONS.parent.parent / "docs", help="folder for the results")
    parser.add_argument("--work", type=Path, help="folder to train in, kept; a temporary one by default")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="quickstart-"))
    work.mkdir(parents=True, exist_ok=True)
    summaries, minutes = {}, {}
    for threads, seed in itertools.product(arguments.threads, arguments.seeds):
        name = f"quickstart_{threads}_{seed}"
        summary, clock = (work / "experiments" / name / file for file in ("summary.json", "minutes.txt"))
        if not clock.is_file():
            print(f"{threads} threads, seed {seed} ...", flush=True)
            start = time.time()
            command = ["train", "-opt", str(OPTIONS), "--force_yml", f"manual_seed={seed}", f"name={name}"]
            subprocess.run(
                [sys.executable, "-m", "nlcl_plugin", *command],
                cwd=work,
                check=True,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
            clock.write_text(str((time.time() - start) / 60))
        summaries[threads, seed] = json.loads(summary.read_text())
        minutes[threads, seed] = float(clock.read_text())
    baselines = {}
    for key, block in yaml.safe_load(OPTIONS.read_text(encoding="utf-8"))["datasets"].items():
        if key.startswith("val"):
            baselines[block["name"]] = best_of_all(work / block["dataroot_lq"], work / block["dataroot_gt"])
    text = report(summaries, minutes, baselines)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "quickstart.md").write_text(text, encoding="utf-8")
    (arguments.out / "images").mkdir(exist_ok=True)
    first = work / f"experiments/quickstart_{arguments.threads[-1]}_{arguments.seeds[0]}/summary.png"
    with Image.open(first) as picture:
        picture.save(arguments.out / "images" / "quickstart.jpg", quality=90)  # a fifth of the PNG
    print(text)
    if arguments.work is None:
        shutil.rmtree(work)
    return 0


def report(summaries: dict, minutes: dict, baselines: dict) -> str:
    """The results as a Markdown page."""
    used = sorted({threads for threads, _ in summaries})
    times = (f"{_range(v for (n, _), v in minutes.items() if n == threads)} with {threads}" for threads in used)
    lines = [
        "# Quickstart: what to expect",
        "",
        "Written by `python tools/reproduce_quickstart.py` on "
        f"{platform.machine()}, {os.cpu_count()} CPU cores, no GPU, Python {platform.python_version()}, "
        f"torch {version('torch')}.",
        f"Minutes per run, start-up included, by the number of threads: {', '.join(times)}.",
        "",
        "PSNR in dB on 8-bit RGB and SSIM, means over held-out pairs. The baseline is the best of 102 classical",
        "filters (`tools/studies/all_filters.py`) on these very pairs. *clean* compares derain(clean) with clean.",
        "The recipe was chosen on these validation pairs: this shows that training works, not how good the method is.",
        "",
        "| rain | rainy | baseline | gain | over baseline | clean | SSIM rainy → derained |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = []
    for name in next(iter(summaries.values()))["datasets"]:
        baseline, best = baselines[name]
        found = {run: summary["datasets"][name] for run, summary in summaries.items()}
        psnr = [figures["psnr"] for figures in found.values()]
        ssim = [figures["ssim"] for figures in found.values()]
        lines.append(
            f"| {name} | {psnr[0]['rainy']:.2f} | {best:.2f} ({baseline}) "
            f"| {_range((one['derained'] - one['rainy'] for one in psnr), '+.2f')} "
            f"| {_range((one['derained'] - best for one in psnr), '+.2f')} "
            f"| {_range(one['clean'] for one in psnr)} "
            f"| {ssim[0]['rainy']:.3f} → {_range((one['derained'] for one in ssim), '.3f')} |"
        )
        rows += [
            f"| {name} | {threads} | {seed} | {figures['psnr']['derained']:.2f} "
            f"| **{figures['psnr']['derained'] - figures['psnr']['rainy']:+.2f}** "
            f"| {figures['psnr']['derained'] - best:+.2f} | {figures['psnr']['clean']:.1f} "
            f"| {figures['ssim']['derained']:.3f} |"
            for (threads, seed), figures in found.items()
        ]
    lines += ["", f"Each of the {len(summaries)} runs:", ""]
    lines += [
        "| rain | threads | seed | derained | gain | over baseline | clean | SSIM |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [*rows, "", "![rainy, derained, rain layer, ground truth](images/quickstart.jpg)", ""]
    return "\n".join(lines)


def _range(values: Iterable[float], form: str = ".1f") -> str:
    """The lowest and the highest value."""
    found = list(values)
    return f"{min(found):{form}} to {max(found):{form}}"


if __name__ == "__main__":
    sys.exit(main())
