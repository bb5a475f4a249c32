"""The slow reference: the training step of the released CVPR code, written again plainly.

Only the networks come from the package. What it does as the released code does (DESIGN facts 1 to 5):
one query patch per image; candidates are gathered one by one into a tensor that `torch.cat` copies each time, with
gradients tracked; features are computed again for each loss; layer contrast builds labels and masks; the discriminator
steps before the generators; its features begin with the image itself and the deepest is left out of the loss.
"""

import random

import torch
import torch.nn.functional as F

from nlcl_plugin.archs import LayerGenerator, PatchDiscriminator, ProjectionHeads

GENERATOR_TAPS = (0, 2, 4, 8, 12)
DISCRIMINATOR_TAPS = (0, 3, 7, 11)
IMAGE_PATCHES, RAIN_PATCHES, PLACES = 8, 128, 256


def loop_search(image, centre, k, patch=16, search=40):
    """The `k` nearest patches of one query patch.

    Args:
        image: (1, C, H, W).
        centre: Row and column of the query patch's centre.
        k: How many.
        patch: Side of a patch.
        search: Side of the window of centres.

    Returns:
        Centres (k, 2), nearest first, and squared distances (k,).
    """
    half = patch // 2
    height, width = image.shape[2:]

    def at(row, column):
        return image[:, :, row - half : row - half + patch, column - half : column - half + patch]

    patches = image.new_zeros(0, image.shape[1], patch, patch)
    places = torch.zeros(0, 2, dtype=torch.int64)
    for row in range(centre[0] - search // 2, centre[0] - search // 2 + search):
        for column in range(centre[1] - search // 2, centre[1] - search // 2 + search):
            if half <= row <= height - patch + half and half <= column <= width - patch + half:
                patches = torch.cat((patches, at(row, column)))
                places = torch.cat((places, torch.tensor([[row, column]])))
    squares = torch.pow(patches - at(*centre), 2)
    distances = squares.sum(3).sum(2).sum(1)
    values, index = distances.topk(k, largest=False)
    return places.to(image.device)[index], values


def masked_supcon(image, rain, temperature=0.07):
    """L_out of supervised contrast (arXiv 2004.11362, eq. 2) over image (N, D) and rain (M, D), by labels and masks."""
    embeddings = torch.cat((image, rain))
    labels = torch.cat((torch.ones(len(image), 1), torch.zeros(len(rain), 1)))
    others = torch.ones(len(labels), len(labels)).fill_diagonal_(0).to(image.device)
    positives = torch.eq(labels, labels.T).float().to(image.device) * others
    logits = embeddings @ embeddings.T / temperature
    logits = logits - logits.max(dim=1, keepdim=True).values.detach()
    log_probability = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    return -((positives * log_probability).sum(1) / positives.sum(1)).mean()


def masked_patch_nce(queries, keys, temperature=0.07):
    """PatchNCE (arXiv 2007.15651) over (N, D), all other places being negatives."""
    keys = keys.detach()
    positive = (queries * keys).sum(1, keepdim=True)
    negatives = (queries @ keys.T).masked_fill(torch.eye(len(keys), dtype=torch.bool, device=keys.device), -10.0)
    logits = torch.cat((positive, negatives), dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(keys), dtype=torch.int64, device=keys.device))


class ReferenceStep:
    """Networks, optimizers and one step after the other; batch 1.

    Args:
        device: Where to.
        search: Side of the search window.
        rain_patches: Neighbours in the rain layer.
        places: Places of location contrast.
    """

    def __init__(self, device="cpu", search=40, rain_patches=RAIN_PATCHES, places=PLACES):
        self.search, self.rain_patches, self.places = search, rain_patches, places
        self.image_net, self.rain_net = (
            LayerGenerator(layer="image").to(device),
            LayerGenerator(layer="rain").to(device),
        )
        self.judge = PatchDiscriminator().to(device)
        self.location_heads = ProjectionHeads([32] * len(GENERATOR_TAPS)).to(device)
        channels = [3, *self.judge.tap_channels(DISCRIMINATOR_TAPS)]
        self.image_heads, self.rain_heads = ProjectionHeads(channels).to(device), ProjectionHeads(channels).to(device)
        nets = (self.image_net, self.rain_net, self.image_heads, self.rain_heads, self.location_heads)
        self.generator_steps = [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in nets]
        self.judge_step = torch.optim.Adam(self.judge.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def __call__(self, rainy, clean):
        """One step on rainy and clean images (1, 3, H, W) in [0, 1]."""
        rain = self.rain_net(rainy)
        image, image_of_clean = self.image_net(torch.cat((rainy, clean))).chunk(2)

        self.judge.requires_grad_(True)
        self.judge_step.zero_grad()
        fake, real = self.judge(image.detach()), self.judge(clean)
        (0.5 * (fake.square().mean() + (real - 1).square().mean())).backward()
        self.judge_step.step()

        self.judge.requires_grad_(False)
        for optimizer in self.generator_steps:
            optimizer.zero_grad()
        total = (self.judge(image) - 1).square().mean()
        total = total + 0.5 * (self._location(rainy, image) + self._location(clean, image_of_clean))
        total = total + self._layer(image, rain)
        total = total + 0.1 * F.l1_loss(image, rainy) + F.mse_loss(image + rain, rainy)
        total.backward()
        for optimizer in self.generator_steps:
            optimizer.step()

    def _location(self, source, target):
        queries = self.image_net(target, taps=GENERATOR_TAPS, features_only=True)
        keys = self.image_net(source, taps=GENERATOR_TAPS, features_only=True)
        size = source.shape[2:]
        places = self._places(keys[0], self.places)
        pairs = zip(self._embed(queries, places, size, self.location_heads),
                    self._embed(keys, places, size, self.location_heads), strict=True)  # fmt: skip
        return sum(masked_patch_nce(q, k) for q, k in pairs) / len(queries)

    def _layer(self, image, rain):
        found = []
        for layer, heads, k in ((image, self.image_heads, IMAGE_PATCHES), (rain, self.rain_heads, self.rain_patches)):
            features = [layer, *self.judge(layer, taps=DISCRIMINATOR_TAPS, features_only=True)]
            found.append(self._embed(features, self._places(layer, k), layer.shape[2:], heads))
        pairs = list(zip(*found, strict=True))[: len(DISCRIMINATOR_TAPS)]
        return sum(masked_supcon(b, r) for b, r in pairs) / len(pairs)

    def _places(self, features, k):
        reach = self.search // 2 + 8
        centre = [random.randint(reach, side - reach - 1) for side in features.shape[2:]]
        return loop_search(features, centre, k, search=self.search)[0]

    @staticmethod
    def _embed(features, places, size, heads):
        chosen = []
        for feature in features:
            height, width = feature.shape[2:]
            rows, columns = places[:, 0] * height // size[0], places[:, 1] * width // size[1]
            chosen.append(feature.permute(0, 2, 3, 1).flatten(1, 2)[:, rows * width + columns])
        return [embedded[0] for embedded in heads(chosen)]
