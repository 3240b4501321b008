# What every pre-training run shares. Lengths are in iterations.
custom_imports = dict(imports=["mcl"], allow_failed_imports=False)
default_scope = "mmpretrain"

default_hooks = dict(
    # Metrics are read from the device once per line of the log.
    runtime_info=dict(type="DeferredInfoHook"),
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    # Schedules count optimizer steps, of 10 epochs in the warm-up.
    param_scheduler=dict(type="OptimStepParamSchedulerHook", warmup_epochs=10),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, max_keep_ckpts=3),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
custom_hooks = [
    dict(type="IterationSeedHook"),
    dict(type="TargetUpdateHook"),
    dict(type="NonFiniteLossHook"),
    dict(type="UnreadableImageHook", max_fraction=0.01),
    # Spread and rank of the embeddings, a warning when they collapse.
    dict(type="EmbeddingMonitorHook"),
]
log_processor = dict(
    by_epoch=False,
    window_size=50,
    # Smooth the metrics of every level, not the losses alone.
    mean_pattern=r".*(loss|time|data_time|grad_norm|ce_|top1|cosine).*",
)

env_cfg = dict(
    cudnn_benchmark=True,  # every batch has the same shapes
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="UniversalVisualizer", vis_backends=vis_backends)
log_level = "INFO"
load_from = None
resume = False

# All BN layers, of MLPs and predictors too, share statistics over processes.
sync_bn = "torch"
# A fixed seed: a resumed run must draw from the sampler it stopped in.
randomness = dict(seed=0)
