"""Small real datasets in each named layout: builders that return the command's arguments and the number of pairs."""

import numpy as np
from prepare_helpers import rain, scene, write_image, write_pair


def pairs(rainy, clean, *folders, drops=(0,), count=None):
    """A builder of pairs with names of these forms, for (folder, seeds) each; `count` if not all are used."""

    def build(root):
        for folder, seeds in folders:
            for seed in seeds:
                for drop in drops:
                    names = [form.format(s=seed, d=drop, f=folder) for form in (rainy, clean)]
                    write_pair(*(root / name for name in names), seed, drop)
        return [root], count or len(drops) * sum(len(seeds) for _, seeds in folders)

    return build


_SPLITS = (("train", range(6)), ("val", range(6, 8)))
real_rain_1k = pairs("L/{f}/input/{s}.png", "L/{f}/target/{s}.png", *_SPLITS, ("test", range(8, 10)), count=8)
rain200_new = pairs("rain/X2/norain-{s}x2.png", "norain/norain-{s}.png", ("", range(1, 12)))
outdoor_rain = pairs("in/im_{s:04}_s80_a0{d}.png", "gt/im_{s:04}.png", ("", range(1, 12)), drops=(1, 2))
_one_clean = pairs(
    "GT-RAIN_{f}/Place_{s}/Place_{s}-Webcam-R-{d:03}.png",
    "GT-RAIN_{f}/Place_{s}/Place_{s}-Webcam-C-000.png",
    ("train", range(4)),
    ("val", range(4, 6)),
    drops=range(3),
)
_clean_each = pairs(
    "{f}-R-{s:03}.png", "{f}-C-{s:03}.png", ("GT-RAIN_train/Gurutto_1-2/Gurutto_1-2-Webcam", range(20, 23))
)


def gt_rain(root):
    return [root], _one_clean(root)[1] + _clean_each(root)[1]


def spa(root):
    lines = []
    for video in range(6):
        for tile in range(2):
            rainy = f"real_world/{video:03}/{video:03}-1/{video:03}-1_{tile}.PNG"
            clean = f"real_world/{video:03}/gt/{video:03}_{tile}.png"
            write_pair(root / rainy, root / clean, 10 * video + tile)
            lines.append(f"/{rainy} /{clean}")
    (root / "real_world.txt").write_text("\n".join(lines))
    return [root], 12


def side_by_side(root):
    for seed in range(6):
        write_image(root / f"{seed}.png", np.hstack([scene(seed), rain(scene(seed), seed)]))
    return [root, "--rain-side", "right"], 6


def two_folders(root):
    for seed in range(5):
        write_image(root / "r" / f"{seed}.JPG", rain(scene(seed), seed))
    for seed in range(3):
        write_image(root / "c" / f"x{seed}.png", scene(50 + seed))
    return ["--rainy", root / "r", "--clean", root / "c"], False


def train_a_train_b(root):
    two_folders(root)
    (root / "r").rename(root / "trainA")
    (root / "c").rename(root / "trainB")
    for seed in range(70, 72):
        write_pair(root / "valA" / f"{seed}.jpg", root / "valB" / f"{seed}.png", seed)
    return [root], False


def train_a_train_b_pairs(root):
    return [*train_a_train_b(root)[0], "--paired-val"], True


PAIRED = {
    "SPA-Data": spa,
    "RealRain-1k": real_rain_1k,
    "GT-RAIN": gt_rain,
    "LHP-Rain": pairs("{f}/input/r{s}.png", "{f}/gt/g{s}.PNG", *_SPLITS),
    "Rain100/200 old": pairs("rain-{s:03}.png", "norain-{s:03}.png", ("", range(1, 7))),
    "Rain100/200 folders": pairs("rainy/rain-{s:03}.png", "norain/norain-{s:03}.png", ("", range(1, 7))),
    "Rain100/200 new": rain200_new,
    "DDN/Rain1400": pairs("rainy_image/{s}_{d}.JPG", "ground_truth/{s}.jpg", ("", range(1, 12)), drops=(1, 14)),
    "Outdoor-Rain": outdoor_rain,
    "side-by-side": side_by_side,
}
# The second value: whether validation has pairs.
UNPAIRED = {
    "two-folders": two_folders,
    "trainA/trainB": train_a_train_b,
    "trainA/trainB paired": train_a_train_b_pairs,
}
