# 8 GPUs x 128 images x 4 iterations = 4096 images per optimizer step.
# What accumulation does not give: an image is told from the 1,024 of its own
# iteration, not from 4,096, and BN sees 1,024.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

optim_wrapper = dict(accumulative_counts=4)
# 1,281,167 // 1024 = 1,251 iterations an epoch, 125,100 in all; the schedule's
# 31,275 optimizer steps are 125,100 / 4, its 3,127 of warm-up 12,508 iterations.
train_cfg = dict(max_iters=125100)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-4, by_epoch=False, begin=0, end=3128),
    dict(
        type="CosineAnnealingLR",
        T_max=31275,
        eta_min=1e-4,
        by_epoch=False,
        begin=0,
        end=31275,
    ),
]
default_hooks = dict(checkpoint=dict(interval=12512))  # 3,128 steps, 10 epochs
auto_scale_lr = dict(base_batch_size=1024)  # 8 x 128 per iteration
