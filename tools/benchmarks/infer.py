"""Deraining a whole image: time and memory against the plain generator, and against both, as the released code runs."""

import torch
from benchmarks import own_process
from benchmarks.machine import alternate, convolution_rate, ratios, spread

from nlcl_plugin.archs import LayerGenerator
from nlcl_plugin.inference.any_size import infer

ROUNDS = 3
SIZES = {"540p": (540, 960), "1080p": (1080, 1920), "4K": (2160, 3840)}
TIMED = ("540p", "1080p")  # 4K takes the plain generator minutes
EXACT = 1e-5  # what rounding may change, in [0, 1]


def add_arguments(part):
    part.add_argument("--size", choices=SIZES, nargs="+", default=list(SIZES), help="(default: all)")
    part.add_argument("--device", default="cpu", help="(default: %(default)s)")


def measure(folder, arguments):
    """Yield the rows of this part."""
    for size in arguments.size:
        if size in TIMED:
            yield from _times(size, arguments)
        peaks = {
            way: own_process.call("infer:peak", size=size, way=way, device=arguments.device)
            for way in ("plain", "ours")
        }
        case = f"memory for {size} above the process at rest"
        yield {
            "part": "infer",
            "case": case,
            "ratio": peaks["plain"] / peaks["ours"],
            "peak_mb": peaks["ours"],
            "reference_peak_mb": peaks["plain"],
            "text": f"{case}: {peaks['ours']:.0f} MB in bands of rows, {peaks['plain']:.0f} MB plain",
        }


def _times(size, arguments):
    """Time of each way, each exact one after a check that it is."""
    device = arguments.device
    net, image = generator(device), photograph(size, device)
    sides = {
        "plain": lambda: net(image),
        "both generators, as the released test runs": lambda: (net(image), net(image)),
        "bands": lambda: infer(net, image),
        "bands, bfloat16": lambda: _autocast(net, image),
    }
    with torch.no_grad():
        found = {way: (work() if not way.startswith("both") else None) for way, work in sides.items()}
        times = alternate(sides, arguments.rounds, device)
    floor = flops(net, image) / convolution_rate(device)
    if float((found["bands"] - found["plain"]).abs().max()) > EXACT:
        raise RuntimeError(f"bands of rows differ from the whole image at {size}")
    for way, seconds in times.items():
        if way == "plain":
            continue
        if way.startswith("both"):
            case, against = f"image layer, {size}: bands against {way}", ratios(seconds, times["bands"])
            ours, off = times["bands"], found["bands"]
        else:
            case, against = f"image layer, {size}: {way} against the plain generator", ratios(times["plain"], seconds)
            ours, off = seconds, found[way]
        grey = float((off - found["plain"]).abs().max()) * 255
        row = {"part": "infer", "case": case, **spread(against), "floor_ratio": spread(ours)["ratio"] / floor}
        text = f"{case}: {row['ratio']:.2f} ×, {row['floor_ratio']:.1f} × its floor, off by {grey:.1g} grey levels"
        yield {**row, "grey_levels": grey, "text": text}


def _autocast(net, image):
    with torch.autocast(image.device.type, dtype=torch.bfloat16):
        return infer(net, image)


def generator(device):
    """The image generator of the paper's setting."""
    torch.manual_seed(0)
    return LayerGenerator().eval().requires_grad_(False).to(device)


def photograph(size, device):
    """Noise: no time here depends on values."""
    return torch.rand(1, 3, *SIZES[size], generator=torch.Generator().manual_seed(0)).to(device)


def flops(net, image):
    """Of the convolutions: 2 a weight and pixel."""
    weights = sum(parameter.numel() for parameter in net.parameters() if parameter.dim() == 4)
    return 2 * weights * image.shape[-2] * image.shape[-1]


def peak(size, way, device):
    """Memory that one image takes above the process before it."""
    net, image = generator(device), photograph(size, device)
    small = torch.rand(1, 3, 64, 64, device=device)
    with torch.no_grad():
        (net if way == "plain" else lambda x: infer(net, x))(small)  # libraries take memory once
        own_process.reset_peak()
        before = own_process.resident_mb() if device == "cpu" else 0
        (net if way == "plain" else lambda x: infer(net, x))(image)
    return own_process.peak_mb(device) - before
