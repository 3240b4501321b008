# One GPU: 128 images x 8 iterations = 1024 images per optimizer step.
# An image is told from the 128 of its iteration only; the paper has no number for
# so few negatives.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

# lr 4 = 1024 images / 256
optim_wrapper = dict(accumulative_counts=8, optimizer=dict(lr=4.0))
# 1,281,167 // 128 = 10,009 iterations an epoch, 1,000,900 in all;
# 1,000,900 / 8 = 125,112.5 optimizer steps, the last of them of 4 iterations.
train_cfg = dict(max_iters=1000900)
param_scheduler = [
    # 10 epochs of warm-up: 10 x 10,009 / 8 = 12,511 steps
    dict(type="LinearLR", start_factor=1e-4, by_epoch=False, begin=0, end=12512),
    dict(
        type="CosineAnnealingLR",
        T_max=125113,
        eta_min=1e-4,
        by_epoch=False,
        begin=0,
        end=125113,
    ),
]
default_hooks = dict(checkpoint=dict(interval=20000))
auto_scale_lr = dict(base_batch_size=128)
