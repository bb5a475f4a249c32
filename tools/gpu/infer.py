"""Deraining a whole image: time, memory, and the share of the memory bandwidth that is used."""

import torch
from benchmarks.infer import generator
from gpu import device
from gpu.rows import MEASURED, NOT_RUN, attempt, check, no_time, row

from nlcl_plugin.inference.any_size import infer

SIZES = {"512²": (512, 512), "1080p": (1080, 1920), "4K": (2160, 3840)}
EXACT = 1e-4  # in [0, 1]: bands of rows and other kernels add in another order
GREY = 8  # grey levels by which bf16, with 8 bits of its own, may be off


def measure(setting):
    """Yield the rows of this part."""
    sizes = {"64²": (64, 64)} if setting.tiny else SIZES
    net, rate = generator(setting.device), device.copy_rate(setting.device)
    with device.exact():
        yield attempt("result", _correct, setting, net, next(iter(sizes.items())))
    for size, shape in sizes.items():
        if setting.quick and size == "4K":
            yield row(size, NOT_RUN, "--quick")
            continue
        for name in ("fp32", "bf16"):
            case = f"{size}, {name}"
            fits = setting.fits(5)
            yield attempt(case, _timed, case, setting, net, shape, name, rate) if fits else no_time(case)
            device.free(setting.device)


def _image(shape, where):
    return torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0)).to(where)


def _run(net, image, name):
    with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=name == "bf16"):
        return infer(net, image)


def _correct(setting, net, size):
    """On the device in bands and in bf16, against the plain generator on the CPU."""
    name, shape = size
    with torch.no_grad():
        wanted = generator("cpu")(_image(shape, "cpu"))
        image = _image(shape, setting.device)
        off, half = (float((_run(net, image, kind).cpu() - wanted).abs().max()) for kind in ("fp32", "bf16"))
    text = f"fp32 is off by {off:.1e} of 1, bf16 by {half * 255:.1f} grey levels"
    expected = f"≤ {EXACT}, ≤ {GREY}"
    return check(f"{name}: result", off <= EXACT and half * 255 <= GREY, text, expected, off=off, grey=half * 255)


def _timed(case, setting, net, shape, name, rate):
    where = setting.device
    image = _image(shape, where)
    _run(net, image, name)
    peak = device.peak_mb(lambda: _run(net, image, name), where)
    taken = min(device.seconds(lambda: _run(net, image, name), where, 2) for _ in range(1 if setting.tiny else 3))
    share = _bytes(net, shape, 2 if name == "bf16" else 4) / rate / taken
    megapixels = shape[0] * shape[1] / 1e6 / taken
    text = f"{taken * 1e3:.1f} ms, {megapixels:.1f} megapixels/s, {share:.0%} of the memory bandwidth, {peak:.0f} MB"
    return row(case, MEASURED, text, seconds=taken, share=share, peak_mb=peak)


def _bytes(net, shape, size):
    """The least that is moved: each convolution reads its input and writes its output once."""
    convolutions = [each for each in net.modules() if isinstance(each, torch.nn.Conv2d)]
    return size * shape[0] * shape[1] * sum(each.in_channels + each.out_channels for each in convolutions)
