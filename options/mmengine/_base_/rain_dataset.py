# Your own photographs:
#   datasets/rain/rainy      rainy photographs
#   datasets/rain/clean      clean photographs of anything, as many as you like, any names
#   datasets/rain/val_rainy, val_clean    pairs of equal names, for validation
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="EpochSampler"),
    batch_sampler=dict(type="EndlessBatchSampler"),
    dataset=dict(
        type="UnpairedImageDataset",
        opt=dict(
            phase="train",
            dataroot_lq="datasets/rain/rainy",
            dataroot_gt="datasets/rain/clean",  # not the ground truth of the rainy images
            gt_size=64,
            use_hflip=True,
            use_vflip=True,
            seed=0,  # tools/mm_train.py --seed sets this one, the model's and the Runner's
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="PairedImageDataset",
        opt=dict(dataroot_lq="datasets/rain/val_rainy", dataroot_gt="datasets/rain/val_clean"),
    ),
)
val_evaluator = [dict(type="PSNR"), dict(type="SSIM")]
test_dataloader = val_dataloader
test_evaluator = val_evaluator
