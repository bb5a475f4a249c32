"""Small real datasets in each named layout: builders that return the command's arguments and the number of pairs."""

import numpy as np
from prepare_helpers import rain, scene, write_image, write_pair


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


def real_rain_1k(root):
    for split, seeds in (("train", range(6)), ("validation", range(6, 8)), ("test", range(8, 10))):
        for seed in seeds:
            base = root / "RealRain-1k-L" / split
            write_pair(base / "input" / f"{seed}.png", base / "target" / f"{seed}.png", seed)
    return [root], 8


def gt_rain(root):
    for split, seeds in (("train", range(4)), ("val", range(4, 6))):
        for seed in seeds:
            folder = root / f"GT-RAIN_{split}" / f"Place_{seed}"
            for frame in range(3):
                stem = f"Place_{seed}-Webcam"
                write_pair(folder / f"{stem}-R-{frame:03}.png", folder / f"{stem}-C-000.png", seed, frame)
    folder = root / "GT-RAIN_train" / "Gurutto_1-2"
    for frame in range(3):
        stem = "Gurutto_1-2-Webcam"
        write_pair(folder / f"{stem}-R-{frame:03}.png", folder / f"{stem}-C-{frame:03}.png", 20 + frame)
    return [root], 21


def lhp_rain(root):
    for split, seeds in (("train", range(6)), ("val", range(6, 8))):
        for seed in seeds:
            write_pair(root / split / "input" / f"r{seed}.png", root / split / "gt" / f"g{seed}.PNG", seed)
    return [root], 8


def rain100_old(root):
    for seed in range(1, 7):
        write_pair(root / f"rain-{seed:03}.png", root / f"norain-{seed:03}.png", seed)
    return [root], 6


def rain100_folders(root):
    for seed in range(1, 7):
        write_pair(root / "rainy" / f"rain-{seed:03}.png", root / "norain" / f"norain-{seed:03}.png", seed)
    return [root], 6


def rain200_new(root):
    for seed in range(1, 12):
        write_pair(root / "rain" / "X2" / f"norain-{seed}x2.png", root / "norain" / f"norain-{seed}.png", seed)
    return [root], 11


def rain1400(root):
    for seed in range(1, 12):
        for drop in (1, 14):
            write_pair(root / "rainy_image" / f"{seed}_{drop}.JPG", root / "ground_truth" / f"{seed}.jpg", seed, drop)
    return [root], 22


def outdoor_rain(root):
    for seed in range(1, 12):
        for drop in (1, 2):
            write_pair(root / "in" / f"im_{seed:04}_s80_a0{drop}.png", root / "gt" / f"im_{seed:04}.png", seed, drop)
    return [root], 22


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
    "LHP-Rain": lhp_rain,
    "Rain100/200 old": rain100_old,
    "Rain100/200 folders": rain100_folders,
    "Rain100/200 new": rain200_new,
    "DDN/Rain1400": rain1400,
    "Outdoor-Rain": outdoor_rain,
    "side-by-side": side_by_side,
}
# The second value: whether validation has pairs.
UNPAIRED = {
    "two-folders": two_folders,
    "trainA/trainB": train_a_train_b,
    "trainA/trainB paired": train_a_train_b_pairs,
}
