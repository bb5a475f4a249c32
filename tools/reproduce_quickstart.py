"""Run the quickstart with several seeds and write the table and the picture that the documentation shows.

Usage: python tools/reproduce_quickstart.py [--seeds 0 1 2] [--out docs]

Each run is `basicsr train -opt options/nlcl_quickstart.yml` with another manual_seed, in a folder of its own.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import yaml
from studies.all_filters import best_of_all

OPTIONS = Path(__file__).resolve().parent.parent / "options" / "nlcl_quickstart.yml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=OPTIONS.parent.parent / "docs", help="folder for the results")
    parser.add_argument("--work", type=Path, help="folder to train in, kept; a temporary one by default")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="quickstart-"))
    work.mkdir(parents=True, exist_ok=True)
    summaries, minutes = {}, {}
    for seed in arguments.seeds:
        print(f"seed {seed} ...", flush=True)
        start = time.time()
        command = ["train", "-opt", str(OPTIONS), "--force_yml", f"manual_seed={seed}", f"name=quickstart_{seed}"]
        subprocess.run([sys.executable, "-m", "nlcl_plugin", *command], cwd=work, check=True, stderr=subprocess.DEVNULL)
        minutes[seed] = (time.time() - start) / 60
        summaries[seed] = json.loads((work / f"experiments/quickstart_{seed}/summary.json").read_text())
    baselines = {}
    for key, block in yaml.safe_load(OPTIONS.read_text(encoding="utf-8"))["datasets"].items():
        if key.startswith("val"):
            baselines[block["name"]] = best_of_all(work / block["dataroot_lq"], work / block["dataroot_gt"])
    text = report(summaries, minutes, baselines)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "quickstart.md").write_text(text, encoding="utf-8")
    (arguments.out / "images").mkdir(exist_ok=True)
    first = work / f"experiments/quickstart_{arguments.seeds[0]}/summary.png"
    shutil.copy(first, arguments.out / "images" / "quickstart.png")
    print(text)
    if arguments.work is None:
        shutil.rmtree(work)
    return 0


def report(summaries: dict, minutes: dict, baselines: dict) -> str:
    """The results as a Markdown page."""
    lines = [
        "# Quickstart: what to expect",
        "",
        "Written by `python tools/reproduce_quickstart.py` on "
        f"{platform.machine()}, {os.cpu_count()} CPU cores, no GPU, Python {platform.python_version()}, "
        f"torch {version('torch')}.",
        f"Each run took {min(minutes.values()):.1f} to {max(minutes.values()):.1f} minutes, start-up and demo data "
        "included.",
        "",
        "PSNR in dB on 8-bit RGB and SSIM, means over held-out pairs. The baseline is the best of 102 classical",
        "filters (`tools/studies/all_filters.py`) on these very pairs. *clean* compares derain(clean) with clean.",
        "The recipe was chosen on these validation pairs: this shows that training works, not how good the method is.",
        "",
        "| rain | seed | rainy | baseline | derained | gain | over baseline | clean | SSIM rainy → derained |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in next(iter(summaries.values()))["datasets"]:
        baseline, best = baselines[name]
        for seed, summary in summaries.items():
            figures = summary["datasets"][name]
            psnr, ssim = figures["psnr"], figures["ssim"]
            lines.append(
                f"| {name} | {seed} | {psnr['rainy']:.2f} | {best:.2f} ({baseline}) "
                f"| {psnr['derained']:.2f} | **+{psnr['derained'] - psnr['rainy']:.2f}** "
                f"| {psnr['derained'] - best:+.2f} | {psnr['clean']:.1f} "
                f"| {ssim['rainy']:.3f} → {ssim['derained']:.3f} |"
            )
    lines += ["", "![rainy, derained, rain layer, ground truth](images/quickstart.png)", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
