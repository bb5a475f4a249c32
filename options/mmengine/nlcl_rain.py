# Learn to remove rain without pairs, with MMEngine: the small networks and losses of options/nlcl_quickstart.yml, whose
# comments explain each loss, on your own photographs (see _base_/rain_dataset.py).
#   python tools/mm_train.py options/mmengine/nlcl_rain.py
#   python tools/mm_train.py options/mmengine/nlcl_rain.py --resume
_base_ = ["_base_/runtime.py", "_base_/rain_dataset.py"]

iterations = 2000
stage_one = 350

randomness = dict(seed=0)
train_cfg = dict(type="ResumableTrainLoop", max_iters=iterations, val_interval=400)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

model = dict(
    type="NLCLDerain",
    decomposition="residual",  # one generator: R >= 0 and B = O - R
    seed=0,
    generator=dict(type="LayerGenerator", layer="residual", num_out_ch=1, num_feat=16, num_block=5),
    discriminator=dict(type="PatchDiscriminator", num_feat=24, num_layers=2, antialias=False),
    heads=dict(type="ProjectionHeads", num_feat=64),
    restorer=dict(type="ResidualUNet", num_feat=16),
    # Keys and meanings are those of the `train` block of BasicSR's option files.
    train_cfg=dict(
        ema_decay=0.99,
        gan_opt=dict(type="GANLoss", gan_type="lsgan", loss_weight=1.0),
        identity_opt=dict(type="L1Loss", loss_weight=1.0, ramp_iter=350),
        fidelity_opt=dict(type="L1Loss", loss_weight=0.5),
        relay_opt=dict(type="RelayLoss", loss_weight=2.0, ramp_iter=100),
        layer_opt=dict(
            type="AsymmetricNLCLLoss",
            loss_weight=0.1,
            ramp_iter=200,
            sampling=dict(taps=[0, 2, 5], num_image_patches=8, num_rain_patches=16, patch_size=12, search_size=32),
        ),
        restorer_opt=dict(
            start_iter=stage_one,
            pixel_opt=dict(type="CharbonnierLoss", eps=2.5e-3),
            gain=[0.9, 1.6],
            rain_free=0.1,
            screen=0.25,
        ),
    ),
)

optim_wrapper = dict(
    constructor="NLCLOptimWrapperConstructor",
    type="OptimWrapper",  # AmpOptimWrapper for mixed precision on a GPU, Bf16OptimWrapper anywhere
    optimizer=dict(type="Adam", lr=5e-4, betas=(0.5, 0.999)),
    restorer=dict(type="Adam", lr=1e-3, betas=(0.9, 0.99)),
)


# Each stage keeps its rate for its first half, then goes down linearly.
def falling(first, last):
    return [dict(type="LinearLR", start_factor=1, end_factor=0.02, begin=(first + last) // 2, end=last + 1,
                 by_epoch=False)]  # fmt: skip


param_scheduler = dict(
    generator=falling(0, stage_one),
    discriminator=falling(0, stage_one),
    heads=falling(0, stage_one),
    restorer=falling(stage_one, iterations),
)
