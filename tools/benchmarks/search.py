"""The exact non-local search against the loop that gathers candidates one by one."""

from statistics import median

import skimage.data
import torch
from benchmarks.machine import product_rate, ratios, seconds, spread
from benchmarks.own_process import call, peak_mb, reset_peak, resident_mb
from benchmarks.reference import loop_search

from nlcl_plugin.ops import nonlocal_neighbours, random_centres

ROUNDS = 5
SIZE, PATCH, SEARCH, K = 256, 16, 40, 8
CASES = {  # channels: (queries an image, images)
    3: [(1, 1), (8, 1), (64, 1), (256, 1), (1, 8), (8, 8), (64, 8)],
    64: [(1, 1), (8, 1), (64, 1), (256, 1), (8, 8)],
}


def add_arguments(parser):
    """Options of this part."""
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(default: cpu)")
    parser.add_argument("--channels", type=int, nargs="*", default=[*CASES], help="(default: 3 and 64)")
    parser.add_argument("--small", action="store_true", help="a small window and few queries, to see whether it works")


def measure(folder, arguments):
    """Yield the rows of this part."""
    device, search = arguments.device, 10 if arguments.small else SEARCH
    for channels in arguments.channels:
        cases = CASES.get(channels, CASES[3])[: 2 if arguments.small else None]
        _check(photographs(1, channels).to(device), search)
        # With 64 channels the loop takes most of a minute for a query, so it is timed in a third of the rounds.
        loops = arguments.rounds if channels < 16 else max(arguments.rounds // 3, 1)
        yield from _rows(channels, cases, search, device, arguments.rounds, loops)


def _rows(channels, cases, search, device, rounds, loops):
    image, centre = photographs(1, channels).to(device), [SIZE // 2] * 2
    work = {case: _work(channels, *case, search, device) for case in cases}
    for ours in work.values():
        ours()  # a warm-up
    loop, rates, times = [], [], {case: [] for case in cases}
    for count in range(rounds):
        if count < loops:
            loop.append(seconds(lambda: loop_search(image, centre, K, PATCH, search), device))
        rates.append(product_rate(device))
        for case, ours in work.items():
            # Short ones several times, as a round of the loop is long.
            repeats = 1 + 16 // (case[0] * case[1])
            times[case].append(min(seconds(ours, device) for _ in range(repeats)))
    sizes = {"channels": channels, "search": search, "device": device}
    loop_peak = call("search:peak", **sizes, loop=True)
    for (queries, batch), own in times.items():
        number = queries * batch
        # The loop handles queries one by one at equal cost: timing one query is enough.
        found = spread(ratios([number * loop[min(i, loops - 1)] for i in range(rounds)], own))
        operations = 2 * channels * PATCH**2 * search**2 * number
        above = median(ratios(own, [operations / rate for rate in rates]))
        peak = call("search:peak", **sizes, queries=queries, batch=batch)
        case = f"{channels} channels, {queries} {'query' if queries == 1 else 'queries'}, batch {batch}"
        yield {
            "part": "search",
            "case": case,
            **found,
            "peak_mb": peak,
            "reference_peak_mb": loop_peak,
            "floor_ratio": above,
            "seconds_a_query": median(own) / number,
            "text": f"{case}: {median(own) / number * 1e3:.3f} ms a query, {found['ratio']:.0f} × the loop "
            f"({median(loop) * 1e3:.0f} ms for one query, linear in their number), {above:.1f} × the direct products "
            f"at {median(rates) / 1e9:.0f} GFLOP/s, {peak / batch:.1f} MB of temporaries an image",
        }


def photographs(batch, channels, seed=0):
    """Images (B, C, 256, 256): parts of a photograph with a sensor's noise; above 3 channels, features of them."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1) / 255
    places = torch.randint(512 - SIZE, (batch, 2), generator=generator).tolist()
    images = torch.stack([source[:, r : r + SIZE, c : c + SIZE] for r, c in places])
    images = images + 0.01 * torch.randn(images.shape, generator=generator)
    if channels == 3:
        return images
    weight = torch.randn(channels, 3, 3, 3, generator=generator) / 5
    return torch.nn.functional.conv2d(images, weight, padding=1)


def peak(channels, queries=1, batch=1, search=SEARCH, loop=False, device="cpu"):
    """Largest memory that a search needs above what it is given, in MB; run in a process of its own."""
    images = photographs(batch, channels).to(device)
    work = _work(channels, queries, batch, search, device)
    nonlocal_neighbours(torch.rand(1, 1, 40, 40, device=device), torch.tensor([[[20, 20]]]), search_size=8)  # libraries
    reset_peak()
    before = resident_mb()
    if device != "cpu":
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
    loop_search(images[:1], [SIZE // 2] * 2, K, PATCH, search) if loop else work()
    return peak_mb(device) - before


def _work(channels, queries, batch, search, device):
    images = photographs(batch, channels).to(device)
    generator = torch.Generator().manual_seed(queries)
    centres = random_centres(batch, queries, (SIZE, SIZE), PATCH, generator=generator).to(device)
    return lambda: nonlocal_neighbours(images, centres, patch_size=PATCH, search_size=search, k=K)


def _check(image, search):
    """Both must find the same patches."""
    centre = [SIZE // 2 + 9, SIZE // 2 - 4]
    queries = torch.tensor([[centre]], device=image.device)
    ours, distances = nonlocal_neighbours(image, queries, patch_size=PATCH, search_size=search, k=K)
    wanted, values = loop_search(image, centre, K, PATCH, search)
    if not torch.equal(ours[0, 0], wanted) or not torch.allclose(distances[0, 0], values, rtol=1e-3, atol=1e-3):
        raise RuntimeError(f"the search finds {ours[0, 0].tolist()}, the loop {wanted.tolist()}")
