# 12k: the proportions of 1x, 12/90 as long: drops after 8,000 and 10,667 = 12k x 8/9.
_base_ = "iterations.py"

train_cfg = dict(type="IterBasedTrainLoop", max_iters=12000, val_interval=2000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(
        type="MultiStepLR",
        by_epoch=False,
        begin=0,
        end=12000,
        milestones=[8000, 10667],
        gamma=0.1,
    ),
]
default_hooks = dict(checkpoint=dict(interval=2000))
