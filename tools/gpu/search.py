"""The exact search against the loop of the released code, and against its products alone."""

import torch
from benchmarks.machine import product_rate, spread
from benchmarks.reference import loop_search
from benchmarks.search import PATCH, SEARCH, K, photographs
from gpu import device
from gpu.rows import MEASURED, check, no_time, row

from nlcl_plugin.ops import nonlocal_neighbours, random_centres

QUERIES = 64


def measure(setting):
    """Yield the rows of this part."""
    window, queries = (10, 4) if setting.tiny else (SEARCH, QUERIES)
    for channels in (3, 32, 64):
        case = f"{channels} channels, {queries} queries, window {window}"
        if not setting.fits(10):
            yield no_time(case)
            continue
        images = photographs(1, channels).to(setting.device)
        size = images.shape[-2:]
        centres = random_centres(1, queries, size, PATCH, generator=torch.Generator().manual_seed(0))
        sizes = {"patch_size": PATCH, "search_size": window, "k": K}
        on_device = centres.to(setting.device)
        found, distances = nonlocal_neighbours(images, on_device, **sizes)
        yield _same(case, images, centres, found, distances, sizes)
        yield _speed(case, setting, images, on_device, sizes)


def _same(case, images, centres, found, distances, sizes):
    places, values = nonlocal_neighbours(images.cpu(), centres, **sizes)
    equal = torch.equal(found.cpu(), places) and torch.allclose(distances.cpu(), values, rtol=1e-5, atol=1e-6)
    _, looped = loop_search(images, centres[0, 0].tolist(), K, PATCH, sizes["search_size"])
    near = torch.allclose(distances[0, 0], looped, rtol=1e-3, atol=1e-3)  # its sums are fp32
    text = f"{'equal' if equal else 'differs'} to the CPU's, {'near' if near else 'differs from'} the loop's distances"
    return check(f"{case}: neighbours", equal and near, text, "equal; within 1e-3")


def _speed(case, setting, images, centres, sizes):
    where, rounds = setting.device, 2 if setting.tiny or setting.quick else 5
    queries, centre = centres.shape[1], centres[0, 0].tolist()

    def ours():
        nonlocal_neighbours(images, centres, **sizes)

    found, ratios = [], []
    for _ in range(rounds):
        loop = device.seconds(lambda: loop_search(images, centre, K, PATCH, sizes["search_size"]), where, 1)
        found.append(device.seconds(ours, where, 1 if setting.tiny else 10))
        ratios.append(queries * loop / found[-1])
    operations = 2 * images.shape[1] * PATCH**2 * sizes["search_size"] ** 2 * queries
    above = min(found) * product_rate(where) / operations
    peak = device.peak_mb(ours, where)
    times = spread(ratios)
    text = (
        f"{min(found) * 1e3:.2f} ms, {times['ratio']:.0f} × ({times['low']:.0f}–{times['high']:.0f}) the loop, "
        f"{above:.1f} × its direct products, {peak:.0f} MB"
    )
    return row(f"{case}: time", MEASURED, text, seconds=min(found), floor_ratio=above, peak_mb=peak, **times)
