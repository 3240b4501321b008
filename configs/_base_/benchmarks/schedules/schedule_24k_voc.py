# 24k for the 16,551 images of VOC07+12 trainval: 24k x 16 / 16,551 = 23 passes.
_base_ = "iterations.py"

train_cfg = dict(type="IterBasedTrainLoop", max_iters=24000, val_interval=4000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(
        type="MultiStepLR",
        by_epoch=False,
        begin=0,
        end=24000,
        milestones=[18000, 22000],
        gamma=0.1,
    ),
]
default_hooks = dict(checkpoint=dict(interval=4000))
