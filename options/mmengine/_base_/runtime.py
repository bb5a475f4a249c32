# What every config here needs of MMEngine's Runner.
custom_imports = dict(imports=["nlcl_plugin.mm"], allow_failed_imports=False)
default_scope = "mmengine"

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="WholeCheckpointHook", by_epoch=False, interval=5000, max_keep_ckpts=3),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
custom_hooks = [
    dict(type="CurrentLossesHook"),
    dict(type="LayerStripHook", max_images=4),  # rainy | derained | rain, below work_dirs/*/*/vis_data
]
log_processor = dict(type="LogProcessor", by_epoch=False)
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])

# Each network is wrapped by itself, as they are stepped by themselves.
model_wrapper_cfg = dict(type="MMSeparateDistributedDataParallel")
