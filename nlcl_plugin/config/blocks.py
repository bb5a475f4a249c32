"""The blocks of an option file that belong to no model: every key, its type, range, default and meaning.

The defaults are those of a run; BasicSR's own differ where they end in an error.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from nlcl_plugin.data.image_io import SHORTEST_LIMIT


def plain_name(name: str) -> str:
    """Return a name that files and folders can have in theirs; another one is a ValueError."""
    if os.path.basename(name) != name or name in ("", ".", "..") or len(os.fsencode(name)) > 200:
        raise ValueError("must be a plain folder name")
    return name


Name = Annotated[str, AfterValidator(plain_name)]


class OpenBlock(BaseModel):
    """A block that may also contain keys of others."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class NetworkBlock(OpenBlock):
    """A network: `type` and arguments of its constructor."""

    type: str = Field(description="Network, by its name in BasicSR's registry.")


class MetricBlock(OpenBlock):
    """A metric: `type` and its arguments."""

    type: str = Field(description="Metric, by its name in BasicSR's registry.")
    better: Literal["higher", "lower"] = Field("higher", description="Which values are better.")


class BackendBlock(OpenBlock):
    """How a dataset is stored."""

    type: Literal["disk", "lmdb"] = Field(description="Folders of files, or LMDBs.")


class DatasetOptions(OpenBlock):
    """What every dataset's block takes, whatever the dataset. Loaders are for training; validation reads one by one."""

    type: str = Field(description="Dataset, by its name in BasicSR's registry.")
    name: Name = Field("", description="Name in logs and folders; by default that of the block.")
    optional: bool = Field(False, description="Leave the dataset out, with a warning, where its folders don't exist.")
    io_backend: BackendBlock = Field(BackendBlock(type="disk"), description="`type: disk`, or `type: lmdb` for LMDBs.")
    batch_size_per_gpu: int | None = Field(
        None, ge=1, description="Images a step in each process; needed for training."
    )
    num_worker_per_gpu: int = Field(
        0, ge=0, le=1024, description="Loader processes of each process; 0 reads in the process itself."
    )
    dataset_enlarge_ratio: float = Field(1, gt=0, le=10**9, description="Draws of each image in an epoch.")
    use_shuffle: bool = Field(True, description="As stock option files have it; training always shuffles.")
    prefetch_mode: Literal["cpu", "cuda"] | None = Field(
        None, description="Load ahead in a thread, or onto the GPU (needs one)."
    )
    num_prefetch_queue: int | None = Field(None, ge=1, description="Batches that `prefetch_mode: cpu` loads ahead.")
    pin_memory: bool | None = Field(None, description="Pinned memory, for faster copies to a GPU; training's default.")
    persistent_workers: bool | None = Field(
        None, description="Keep loader processes from one epoch to the next; not with `prefetch_mode: cpu`."
    )
    manual_seed: int | None = Field(None, ge=0, lt=2**31, description="Seed of the dataset; by default the run's.")
    longest_side: int | None = Field(
        None, ge=SHORTEST_LIMIT, description="Of images in training, in pixels (our datasets); by default the top's."
    )
    scale: int = Field(1, ge=1, description="Filled in from the top.")
    phase: str = Field("", description="Filled in from the block's name.")

    @model_validator(mode="after")
    def _check_loader(self) -> DatasetOptions:
        if self.prefetch_mode == "cpu" and self.persistent_workers:
            raise ValueError("prefetch_mode: cpu with persistent_workers: true hangs for ever; drop one of them")
        if self.persistent_workers and not self.num_worker_per_gpu:
            raise ValueError("persistent_workers: needs num_worker_per_gpu of at least 1")
        return self


class PathOptions(OpenBlock):
    """The block `path`. X is a network's letter: `pretrain_network_g` is of `network_g`."""

    resume_state: str | None = Field(
        None,
        description="Training state to resume from, or a folder for its newest by iteration; better: `--auto_resume`.",
    )
    ignore_resume_networks: list[str] | None = Field(
        None, description="Networks, such as `network_p`, that keep `pretrain_network_X` when a training is resumed."
    )


class NetworkPathOptions(OpenBlock):
    """Keys of `path`, one per network."""

    pretrain_network_: str | None = Field(
        None,
        description="Weights to begin with: a file, or a folder for the newest of this network's files in it, by "
        "iteration; `net_X_latest.pth` is the newest unless the training went on after it. Or `real` or `demo`, the "
        "weights that come with the package.",
    )
    param_key_: str | None = Field(
        None,
        description="Which weights of the file: `params`, `params_ema` for the moving average, or another key. "
        "Default: `params`, in testing with our models `params_ema`. A file without them: `params_ema`, else `params`, "
        "else the file itself. A network's average: `params_ema`, else as the network.",
    )
    strict_load_: bool = Field(True, description="Refuse weights that don't fit in name and shape.")


class StockTrainOptions(OpenBlock):
    """What the block `train` of a stock model always takes; the rest is the model's."""

    total_iter: int = Field(gt=0, le=10**10, description="Iterations.")
    warmup_iter: int = Field(-1, description="Iterations of linear learning-rate warm-up; -1 for none.")
    ema_decay: float = Field(0.0, ge=0, le=1, description="Decay of the moving average of net_g; 0 for none.")


class ValOptions(OpenBlock):
    """The block `val`."""

    val_freq: int = Field(5000, ge=1, description="Iterations from one validation to the next; one comes at the end.")
    save_img: bool = Field(False, description="Save the images; true in testing by default.")
    suffix: str | None = Field(None, description="Put behind the names of saved images.")
    pbar: bool | None = Field(None, description="Show a progress bar (stock models).")
    metrics: dict[str, MetricBlock] | None = Field(
        None,
        description="A block a metric: `type`, by its name in BasicSR's registry, and its arguments; `better: lower` "
        "where less is better. PSNR is at most 100 dB, which equal images have; our models leave an image without a "
        "finite value out of the mean and name it in the log.",
    )


class LoggerOptions(OpenBlock):
    """The block `logger`."""

    print_freq: int = Field(100, ge=1, description="Iterations from one line of the log to the next.")
    save_checkpoint_freq: int = Field(
        5000, ge=1, description="Iterations from one checkpoint to the next; one comes at the end."
    )
    keep_checkpoints: int | None = Field(None, ge=1, description="Keep the newest so many; all by default.")
    use_tb_logger: bool = Field(False, description="Write scalars for TensorBoard to `tb_logger/NAME`.")
    wandb: dict[str, Any] | None = Field(
        None, description="`project` (and `resume_id`) of Weights & Biases; needs `use_tb_logger` and wandb installed."
    )


class DistOptions(OpenBlock):
    """The block `dist_params`."""

    backend: str = Field("nccl", description="`nccl` between GPUs; `gloo`, the default without one.")
    port: int | None = Field(None, ge=1, lt=65536, description="Port of the first host, where the launcher names none.")
    timeout: float | None = Field(
        None,
        gt=0,
        description="Seconds that a process waits for the others before it gives up; by default the backend's.",
    )


SETTINGS = ("longest_side", "adaptive", "keep_colours")  # of `TopOptions`: how a trained network derains


class TopOptions(OpenBlock):
    """The top of an option file. Networks are here too, each in a block `network_X`."""

    name: Name = Field(description="Name of the run and of its folder below `experiments` or `results`.")
    model_type: str = Field(description="Model, by its name in BasicSR's registry: ours or any other.")
    scale: int = Field(1, ge=1, description="Factor of the size of outputs to that of inputs; 1 for rain.")
    longest_side: int | None = Field(
        None,
        ge=SHORTEST_LIMIT,
        description="Pixels. In larger images rain is detected in copies with this longest side: in training, in "
        "validation and testing by NLCLModel (give it in the file of the test too), and wherever the trained network "
        "derains. By default images are taken as they are.",
    )
    adaptive: bool = Field(
        False,
        description="In validation and testing by NLCLModel, and wherever the trained network derains, more than R is "
        "subtracted where more of an image has rain (`inference.adaptive`).",
    )
    keep_colours: bool = Field(
        False,
        description="In validation and testing by NLCLModel, and wherever the trained network derains, R is subtracted "
        "without its low frequencies: colours and brightness of regions stay.",
    )
    num_gpu: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="GPUs of this process; 0 is the CPU, `auto` one GPU if there is any. For more start `torchrun`.",
    )
    manual_seed: int | None = Field(
        None, ge=0, lt=2**31, description="Seed of all randomness; one is drawn, and logged, where none is given."
    )
    deterministic: bool = Field(False, description="Kernels that give the same bits in every run; slower on a GPU.")
    find_unused_parameters: bool = Field(
        False, description="For distributed training of networks of which a step leaves a part out (stock models)."
    )
    decomposition: Literal["residual", "two_branch"] | None = Field(
        None,
        description="NLCLModel only. `two_branch`: a generator each for B and R, and B + R = O is a loss. `residual` "
        "(ours, and the default): one generator, R = O - B.",
    )
    demo_data: str | None = Field(None, description="Folder in which the demo data is made, unless it exists.")
    datasets: dict[str, DatasetOptions] = Field(
        description="A block a dataset: `train` and `val` (`val_1`, `val_2` ...) for training, `test` for testing. "
        "`~` removes one."
    )
    path: PathOptions | None = Field(None, description="Weights to begin with, and what to resume.")
    train: dict[str, Any] | None = Field(None, description="Losses, optimizers, schedule and stages.")
    val: ValOptions | None = Field(None, description="Validation and testing.")
    logger: LoggerOptions | None = Field(None, description="Logs and checkpoints.")
    dist_params: DistOptions | None = Field(None, description="How processes find each other.")

    @field_validator("num_gpu", mode="before")
    @classmethod
    def _check_gpus(cls, value: Any) -> Any:
        if value != "auto" and (type(value) is not int or value < 0):
            raise ValueError("expected auto, 0 (CPU) or a count")
        return value
