# 2x: twice 90k; drops 60k and 20k before the end, as Detectron2 has them.
_base_ = "iterations.py"

train_cfg = dict(type="IterBasedTrainLoop", max_iters=180000, val_interval=10000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(
        type="MultiStepLR",
        by_epoch=False,
        begin=0,
        end=180000,
        milestones=[120000, 160000],
        gamma=0.1,
    ),
]
default_hooks = dict(checkpoint=dict(interval=10000))
