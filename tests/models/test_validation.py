import cv2
import numpy as np
import pytest
import torch
from model_helpers import RESTORER, batch, build, options, step

from nlcl_plugin.models.validation import ValidationMixin, _output_name


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("rainy/a.png", "rainy", "a"),
        ("rainy/night/a.b.JPG", "rainy/", "night/a.b"),
        ("/data/rainy/a.png", "/data/rainy", "a"),
        ("/elsewhere/a.png", "/data/rainy", "a"),
        ("/data/rainy2/a.png", "/data/rainy", "a"),
        ("../up/a.png", "rainy", "a"),
        ("key", None, "key"),
        ("..", None, "_"),
        ("rainy/../..", "rainy", "_"),
        ("a\0b", None, "a_b"),
    ],
)
def test_outputs_keep_their_place_below_the_root_and_never_leave_it(path, root, expected):
    assert _output_name(path, root, set()) == expected


def test_images_that_differ_in_their_suffix_alone_do_not_overwrite_each_other():
    taken = set()
    names = [_output_name(f"rainy/{name}", "rainy", taken) for name in ("a.jpg", "a.png", "b.png")]
    assert names == ["a", "a.png", "b"]


def test_long_names_are_cut_and_stay_different():
    names = {_output_name(f"rainy/{'雨' * 80}{number}.png", "rainy", set()) for number in range(3)}
    assert len(names) == 3
    assert all(len(name.encode()) <= 200 for name in names)


@pytest.mark.parametrize("is_train", [False, True])
def test_pictures_stay_in_their_folder_whatever_is_put_behind_their_names(tmp_path, is_train):
    model = ValidationMixin()
    folder = tmp_path / "results" / "visualization"
    model.opt = {"path": {"visualization": str(folder)}, "is_train": is_train, "val": {"suffix": "/../../../x"}}
    picture = np.zeros((4, 5, 3), np.uint8)
    image = _output_name("..", None, set())
    model._save_pictures(dict.fromkeys(("lq", "result", "rain"), picture), "pairs", image, 7)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(path.is_relative_to(folder) for path in files)


class Pairs(torch.utils.data.Dataset):
    """One pair of noise, as a validation dataset gives it."""

    def __init__(self):
        self.opt = {"name": "pairs"}

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {"lq": batch()["lq"][0], "gt": batch()["gt"][0], "lq_path": "0.png"}


class Pictures(list):
    """A TensorBoard writer that keeps the pictures."""

    def add_image(self, tag, picture, *_, **__):
        self.append(picture)

    def add_scalar(self, *_): ...


@pytest.mark.parametrize("is_train", [True, False])
def test_a_grey_rain_layer_is_trained_shown_and_saved_like_any_other(tmp_path, is_train):
    opt = options(tmp_path, "two_branch", **RESTORER, min_mean_rain=0, dimension_freq=1)
    opt["network_r"]["num_out_ch"] = 1
    model = build(opt)
    if not is_train:
        model.save(0, 1)
        weights = {f"pretrain_network_{label}": str(tmp_path / f"net_{label}_1.pth") for label in "gr"}
        kept = {key: opt[key] for key in opt if key not in ("train", "network_s")}
        model = build({**kept, "is_train": False, "path": {**opt["path"], **weights}})
    folder, shown = tmp_path / "v", Pictures()
    model.nondist_validation(torch.utils.data.DataLoader(Pairs()), 1, shown, save_img=True)
    rain = model.nets["r"](model.lq) if not is_train else model.averages["r"](model.lq)
    assert rain.shape[1] == 1
    assert model.get_current_visuals()["rain"].shape == model.lq.shape
    strip = cv2.imread(str(folder / "pairs/0/0_1.png" if is_train else folder / "pairs_layers/0.png"))
    assert strip.shape == shown[0].shape == (32, 96, 3)
    grey = (rain[0, 0].detach().clamp(0, 1) * 255).round().numpy()
    for layer in (strip, shown[0]):
        assert np.abs(layer[:, 64:] - grey[..., None]).max() <= 1
    if is_train:  # both stages
        for current_iter in range(1, 5):
            step(model, current_iter)
