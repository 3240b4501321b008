# 24k iterations of 8 images: 24k x 8 / 2,975 = 65 passes over Cityscapes.
_base_ = "iterations.py"

# lr .02 x 8 / 16 images
optim_wrapper = dict(optimizer=dict(lr=0.01))
auto_scale_lr = dict(base_batch_size=8)  # 8 GPUs x 1 image

train_cfg = dict(type="IterBasedTrainLoop", max_iters=24000, val_interval=4000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(
        type="MultiStepLR",
        by_epoch=False,
        begin=0,
        end=24000,
        milestones=[18000],
        gamma=0.1,
    ),
]
default_hooks = dict(checkpoint=dict(interval=4000))
