# 1x: 90k iterations of 16 images are 12.3 passes over the 117k images of COCO
_base_ = "iterations.py"

train_cfg = dict(type="IterBasedTrainLoop", max_iters=90000, val_interval=10000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(
        type="MultiStepLR",
        by_epoch=False,
        begin=0,
        end=90000,
        milestones=[60000, 80000],
        gamma=0.1,
    ),
]
default_hooks = dict(checkpoint=dict(interval=10000))
