"""Exact nearest patches inside a search window (the non-local search of NLCL, computed our way).

With the query patch ``q`` and a candidate patch ``c``, ``|c - q|^2 = |c|^2 - 2 c.q + |q|^2``. For all candidates of
a window at once, ``|c|^2`` is a box filter and ``c.q`` a convolution with the flipped query patch. The convolution
goes through one complex FFT: with the window as real part and the flipped patch as imaginary part, the imaginary
part of ``ifft(fft(z)^2)`` is twice the convolution. All of it runs in float64, so the error of such a *score* is
below a small bound known in advance. Whatever the scores leave open within that bound (the order of close
candidates, the exact value of a small distance) is settled by the direct differences of those candidates alone.
Repetitive images, where hundreds of candidates tie, thus come out as they do from the obvious loop.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import torch
from torch import Tensor

_ROUNDOFF = 2.0**-53  # of float64, in which scores and direct differences are computed
_BLOCK_BYTES = 40 << 20  # of temporaries at a time
_BLOCK_BYTES_CPU = 8 << 20  # a CPU is slower on blocks that leave its cache
_BLOCKS = 256  # whose scores a device holds together, so that the host waits once for all of them
_Where = tuple[Tensor, Tensor, Tensor]  # per query: number of the image, first pixels of the patch and of the window


@torch.no_grad()
def nonlocal_neighbours(
    features: Tensor,
    queries: Tensor,
    *,
    patch_size: int = 16,
    search_size: int = 40,
    k: int = 8,
    include_query: bool = True,
    validate: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the ``k`` nearest patches of each query patch inside its search window, exactly.

    Non-local search as in NLCL (Ye et al., CVPR 2022, arXiv 2203.11509); computed our way.

    A patch centred at ``c`` covers the rows and columns ``[c - p // 2, c - p // 2 + p)``, with ``p = patch_size``.
    Candidates of a query ``q`` are the centres in ``[q - s // 2, q - s // 2 + s)`` per axis, with
    ``s = search_size``, whose whole patch is inside the image.

    Args:
        features: Images or feature maps (B, C, H, W), floating point and finite, on any device that has float64.
            float16 and bfloat16 are taken as float32.
        queries: Integer patch centres (B, Q, 2) as (row, column), each with its whole patch inside the image.
        patch_size: Side of a patch in pixels, at least 1.
        search_size: Side of the window of candidate centres in pixels, at least 1.
        k: Number of neighbours, from 1 to the number of candidates.
        include_query: Whether the query's own centre is a candidate (then it has distance 0). Other patches that
            equal the query patch are candidates either way.
        validate: Whether to check that features are finite and queries inside the image. A check waits for the
            device, so by default (None) only tensors on the CPU are checked. Unchecked queries outside are moved to
            the nearest place inside, and unchecked features that are not finite have arbitrary neighbours. Without
            checks a search waits once, or more often if distances are almost equal or
            ``k`` is above the candidates of a query in a corner.

    Returns:
        Centres (B, Q, k, 2), int64, and squared L2 distances over the patch_size x patch_size x C values
        (B, Q, k), float64 for float64 features and float32 otherwise; nearest first. Equal distances (to within
        the rounding of a float64 sum) are in row-major order of their centres. Nothing carries a gradient.

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If a shape, a size or ``k`` is wrong; if checked, also if a feature is not finite (or too large to
            square) or a query patch leaves the image.

    Example:
        >>> image = torch.arange(8.0).repeat(8, 1)[None, None]  # a horizontal ramp
        >>> centres, distances = nonlocal_neighbours(image, torch.tensor([[[4, 4]]]), patch_size=2, search_size=3, k=4)
        >>> centres[0, 0].tolist()
        [[3, 4], [4, 4], [5, 4], [3, 3]]
        >>> distances[0, 0].tolist()
        [0.0, 0.0, 0.0, 4.0]
    """
    features, queries = _checked(features, queries, patch_size, search_size, k, validate)
    (batch, num), device = queries.shape[:2], features.device
    height, width = features.shape[2:]
    # All windows have one shape: at a border a window moves inwards, and candidates that are too far are masked.
    window = (min(height, search_size + patch_size - 1), min(width, search_size + patch_size - 1))
    grid = (window[0] - patch_size + 1, window[1] - patch_size + 1)
    corner = queries.reshape(-1, 2) - patch_size // 2  # of the query patch
    wanted = corner - search_size // 2
    limits = zip(wanted.unbind(-1), (height, width), window, strict=True)
    origin = torch.stack([first.clamp(0, size - side) for first, size, side in limits], -1)  # of the window
    offset = corner - origin
    own = offset[:, :1] * grid[1] + offset[:, 1:]  # candidate (i, j) of a window has the index i * grid[1] + j
    counts = torch.full((batch * num,), grid[0] * grid[1], device=device)
    # Elsewhere than on a CPU, the mask costs less than to wait for the answer.
    moved = device.type != "cpu" or bool((origin != wanted).any())
    if moved:
        steps = torch.arange(max(grid), device=device) + (origin - wanted)[:, :, None]
        inside = (steps >= 0) & (steps < search_size)
        rows, columns = inside[:, 0, : grid[0]], inside[:, 1, : grid[1]]
        counts = rows.sum(-1) * columns.sum(-1)
    counts -= int(not include_query)
    fewest = math.prod(min(size, search_size // 2 + 1, (search_size + 1) // 2) for size in grid)  # in some corner
    if k > fewest - int(not include_query) and bool((counts < k).any()):
        worst = int(counts.argmin())
        raise ValueError(
            f"k = {k} is above the {int(counts[worst])} candidates of the query at (row, column) "
            f"{tuple((corner[worst] + patch_size // 2).tolist())} (search_size {search_size}, patch_size {patch_size}, "
            f"image {height} x {width}, include_query {include_query})"
        )

    centres = torch.empty(batch * num, k, 2, dtype=torch.int64, device=device)
    distances = torch.empty(batch * num, k, dtype=features.dtype, device=device)
    image = torch.arange(batch * num, device=device) // max(num, 1)
    step = max(1, _BLOCK_BYTES // (128 * grid[0] * grid[1]))

    def candidates(start: int) -> _Block:
        part = slice(start, start + step)
        where = image[part], corner[part], origin[part]
        score, margin = _scores(features, where, window, patch_size)
        if moved:
            score.masked_fill_(~(rows[part, :, None] & columns[part, None]), math.inf)
        score = score.flatten(1).scatter_(1, own[part], 0.0 if include_query else math.inf)
        return _Block(part, score, margin, own[part], k, features, where, grid[1], patch_size)

    for first in range(0, batch * num, step * _BLOCKS):
        blocks: Iterable[_Block] = map(candidates, range(first, min(first + step * _BLOCKS, batch * num), step))
        if device.type != "cpu":
            blocks = list(blocks)
            if not bool(torch.stack([block.is_open for block in blocks]).any()):  # the one wait of these blocks
                for block in blocks:
                    block.settled = True
        for block in blocks:
            index, distances[block.part] = block.nearest()
            centres[block.part] = _positions(index, grid[1]) + (block.where[2][:, None] + patch_size // 2)
    return centres.view(batch, num, k, 2), distances.view(batch, num, k)


def _positions(index: Tensor, columns: int) -> Tensor:
    """Rows and columns (..., 2) of row-major indices (...)."""
    return torch.stack([index // columns, index % columns], -1)


def _crops(features: Tensor, image: Tensor, corner: Tensor, height: int, width: int) -> Tensor:
    """Crops (N, C, height, width) of the images ``image`` (N,) whose first pixels are ``corner`` (N, 2)."""
    return features.unfold(2, height, 1).unfold(3, width, 1)[image, :, corner[:, 0], corner[:, 1]]


@functools.lru_cache
def _fft_length(size: int) -> int:
    """The smallest length from ``size`` on with no prime factor above 7, for which FFTs are fast."""
    rest = size
    for prime in (2, 3, 5, 7):
        while rest % prime == 0:
            rest //= prime
    return size if rest == 1 else _fft_length(size + 1)


def _block(device: torch.device, bytes_per_item: int) -> int:
    """How many items of so many bytes are taken at a time."""
    return max(1, (_BLOCK_BYTES_CPU if device.type == "cpu" else _BLOCK_BYTES) // bytes_per_item)


def _scores(features: Tensor, where: _Where, window: tuple[int, int], patch: int) -> tuple[Tensor, Tensor]:
    """Squared distances (N, rows, columns) of all patches of each window in float64, and their error bound (N, 1)."""
    area = 64 * window[0] * window[1]
    shape = _fft_length(window[0]), _fft_length(window[1])
    # Two transforms and a square: 3 log2(n) stages, each off by less than 7 roundoffs relative to the energy of z,
    # at most twice that of the window (Higham, Accuracy and Stability of Numerical Algorithms, 24.1); the rest is
    # the sums of the box filter. Rounded up.
    error = (64 * math.log2(shape[0] * shape[1]) + 8 * patch + 4 * features.shape[1] + 16) * _ROUNDOFF
    # Results go to tensors allocated beforehand: small ones kept between large temporaries fragment the heap.
    score = features.new_empty(len(where[0]), *(size - patch + 1 for size in window), dtype=torch.float64)
    margin = score.new_empty(len(score), 1)
    step = _block(features.device, area * features.shape[1])
    for start in range(0, len(score), step):
        block = slice(start, start + step)
        some = where[0][block], where[1][block], where[2][block]
        # The channels come in more than one part only when those of a single query do not fit a block.
        parts = features.split(_block(features.device, area * len(some[0])), dim=1)
        sums = zip(*(_transformed(part, some, window, shape, patch) for part in parts), strict=True)
        spectrum, energy, norm = (functools.reduce(torch.add, terms) for terms in sums)
        twice = torch.fft.ifft2(spectrum).imag[:, patch - 1 : window[0], patch - 1 : window[1]]
        # The sums of a box filter have no cancellation (differences of running sums would): 0 comes out as 0.
        box = energy.unfold(1, patch, 1).sum(-1).unfold(2, patch, 1).sum(-1)
        textured = (norm > 0).to(box.dtype)  # a flat patch has c.q = 0, whatever the FFT says
        score[block] = box.add_(norm[:, None, None]).sub_(twice * textured[:, None, None]).clamp_(min=0)
        margin[block, 0] = textured * energy.sum((1, 2)) * error
    return score, margin


def _transformed(
    features: Tensor, where: _Where, window: tuple[int, int], shape: tuple[int, int], patch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the channels: fft(z)^2 (N, *shape), energy of each pixel (N, *window) and of the query patch (N,)."""
    image, corner, origin = where
    query = _crops(features, image, corner, patch, patch).double()
    # Values count from that of the patch's middle: smaller sums have smaller errors, and a flat patch is exactly 0.
    zero = query[:, :, patch // 2, patch // 2, None, None].clone()
    query -= zero
    region = _crops(features, image, origin, *window).double().sub_(zero)
    z = region.new_zeros(*region.shape[:2], *shape, 2)
    z[..., : window[0], : window[1], 0] = region
    z[..., :patch, :patch, 1] = query.flip(-2, -1)
    spectrum = torch.fft.fft2(torch.view_as_complex(z)).square_().sum(1)
    return spectrum, region.square_().sum(1), query.square_().sum((1, 2, 3))


class _Block:
    """The least scores of some queries; `is_open` tells whether anything is left to settle, without waiting for it.

    Args:
        part: Which queries.
        score: Squared distances (N, M), off by at most ``margin``.
        margin: (N, 1).
        own: Index of each query's own centre (N, 1).
        k: Number of neighbours.
        features: As searched.
        where: See `_Where`.
        columns: Candidates in a row of a window.
        patch: Side of a patch.
    """

    def __init__(
        self,
        part: slice,
        score: Tensor,
        margin: Tensor,
        own: Tensor,
        k: int,
        features: Tensor,
        where: _Where,
        columns: int,
        patch: int,
    ) -> None:
        self.part, self.score, self.margin, self.own, self.k = part, score, margin, own, k
        self.features, self.where, self.columns, self.patch = features, where, columns, patch
        self.settled = False
        # What the rounding of a float64 sum of n values may part, relative to the sum: n roundoffs in each of the two
        # that are compared, doubled for the rounding of the squares and for good measure.
        self.tie = 4 * _ROUNDOFF * (features.shape[1] * patch**2 + 4)
        self.value, self.index = score.topk(min(k + 1, score.shape[1]), largest=False)
        # Up to here come the scores of all distances up to the true kth: that one's score is off, and so is theirs.
        self.bound = self.value[:, k - 1 : k] * (1 + self.tie) + 2 * margin
        if score.device.type != "cpu":  # a CPU asks when it settles
            close, vague = self._unsettled()
            self.is_open = (self.value[:, k:] <= self.bound).any() | (close.any() | vague.any())

    def _unsettled(self) -> tuple[Tensor, Tensor]:
        """Where the order of neighbours (N, n - 1) and their distances (N, n) need direct differences."""
        value, margin = self.value, self.margin
        close = value.diff(dim=-1) <= 2 * margin + self.tie * value[:, :-1]  # False from the last to the masked ones
        vague = margin > value * (torch.finfo(self.features.dtype).eps / 2)
        vague[:, 1:] |= close
        vague[:, :-1] |= close
        # The own centre's distance is 0; the scores of a flat query patch (margin 0) are direct differences already.
        vague &= (margin > 0) & (self.index != self.own)
        return close, vague

    def nearest(self) -> tuple[Tensor, Tensor]:
        """Indices and distances (N, k) of the nearest candidates."""
        if not self.settled:
            self._settle()
        return self.index[:, : self.k], self.value[:, : self.k]

    def _settle(self) -> None:
        if bool((self.value[:, self.k :] <= self.bound).any()):
            self.value, self.index = self.score.topk(int((self.score <= self.bound).sum(-1).max()), largest=False)
        close, vague = self._unsettled()
        query, place = vague.nonzero(as_tuple=True)
        if len(query):
            image, corner, origin = (tensor[query] for tensor in self.where)
            at = _positions(self.index[query, place], self.columns) + origin
            self.value[query, place] = _direct(self.features, image, corner, at, self.patch)
        if bool(close.any()):
            self.value, self.index = _ordered(self.value, self.index, self.tie)


def _direct(features: Tensor, image: Tensor, corner: Tensor, at: Tensor, patch: int) -> Tensor:
    """Squared distances (N,) between the patches that start at ``corner`` and at ``at`` (N, 2), in float64."""
    step = _block(features.device, 24 * features.shape[1] * patch**2)
    sums = torch.empty(len(image), dtype=torch.float64, device=features.device)
    for start in range(0, len(sums), step):
        block = slice(start, start + step)
        delta = _crops(features, image[block], at[block], patch, patch).double()
        delta -= _crops(features, image[block], corner[block], patch, patch)
        sums[block] = delta.square_().sum((1, 2, 3))
    return sums


def _ordered(value: Tensor, index: Tensor, tie: float) -> tuple[Tensor, Tensor]:
    """Sort by value and, where values agree to within ``tie``, by index; a run of ties gets its least value."""
    value, order = value.sort(-1)
    index = index.gather(-1, order)
    starts = torch.ones_like(index, dtype=torch.bool)
    starts[:, 1:] = value[:, 1:] * (1 - tie) > value[:, :-1]
    order = (starts.cumsum(-1) * (index.max() + 1) + index).argsort(-1)
    # Within a run all values are the same from here on, so only the indices need the new order.
    return torch.where(starts, value, 0).cummax(-1).values, index.gather(-1, order)


def _checked(
    features: Tensor, queries: Tensor, patch_size: int, search_size: int, k: int, validate: bool | None
) -> tuple[Tensor, Tensor]:
    """Check the arguments; features as float32 or float64, queries as int64 on the features' device."""
    for name, number in (("patch_size", patch_size), ("search_size", search_size), ("k", k)):
        if not isinstance(number, int):
            raise TypeError(f"{name} must be an integer, got {number!r}")
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    for name, tensor in (("features", features), ("queries", queries)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got {features.dtype}")
    if queries.is_floating_point() or queries.is_complex() or queries.dtype == torch.bool:
        raise TypeError(f"queries must be integer (row, column) centres, got {queries.dtype}")
    if features.ndim != 4 or 0 in features.shape:
        raise ValueError(f"features must be a non-empty (B, C, H, W) tensor, got shape {tuple(features.shape)}")
    if queries.ndim != 3 or queries.shape[0] != features.shape[0] or queries.shape[2] != 2:
        raise ValueError(
            f"queries must have shape (B, Q, 2) with B = {features.shape[0]} as the features have, "
            f"got {tuple(queries.shape)}"
        )
    if features.dtype != torch.float64:
        features = features.float()
    height, width = features.shape[2:]
    if min(height, width) < patch_size:
        raise ValueError(f"features of {height} x {width} pixels are smaller than the patch_size {patch_size}")
    queries = queries.to(features.device, torch.int64)
    if features.device.type == "cpu" if validate is None else validate:
        _check_values(features, queries, patch_size)
        return features, queries
    half = patch_size // 2  # an index out of range would end the whole process on CUDA
    rows, columns = (queries[..., axis].clamp(half, (height, width)[axis] - patch_size + half) for axis in (0, 1))
    return features, torch.stack([rows, columns], -1)


def _check_values(features: Tensor, queries: Tensor, patch_size: int) -> None:
    """Check what only values tell, for which a device has to be waited for."""
    low, high = (float(end) for end in features.aminmax())
    # Distances are at most C p^2 (2 max)^2, which must not overflow. A NaN fails the comparison too.
    largest = math.sqrt(torch.finfo(features.dtype).max / features.shape[1]) / (4 * patch_size)
    if not -largest <= low <= high <= largest:
        what = f"values beyond ±{largest:.2g}" if math.isfinite(low) and math.isfinite(high) else "NaN or infinity"
        raise ValueError(f"features must be finite, got {what} (minimum {low}, maximum {high})")
    height, width = features.shape[2:]
    half = patch_size // 2
    last = torch.tensor([height, width], device=queries.device) - (patch_size - half)
    outside = ((queries < half) | (queries > last)).any(-1)
    if bool(outside.any()):
        b, q = outside.nonzero()[0].tolist()
        raise ValueError(
            f"the patch of query {q} of image {b} at (row, column) {tuple(queries[b, q].tolist())} leaves the image: "
            f"rows must be {half} to {int(last[0])} and columns {half} to {int(last[1])} "
            f"(patch_size {patch_size}, image {height} x {width})"
        )
