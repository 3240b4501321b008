# One GPU: 128 images x 8 iterations = 1024 images per optimizer step.
# An image is told from the 128 of its iteration only; the paper has no number for
# so few negatives.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

# lr 4 = 1024 images / 256
optim_wrapper = dict(accumulative_counts=8, optimizer=dict(lr=4.0))
# 1,281,167 // 128 = 10,009 iterations an epoch, 1,000,900 in all: 125,113 optimizer
# steps, the last of them of 4 iterations.
default_hooks = dict(checkpoint=dict(interval=2000))
auto_scale_lr = dict(base_batch_size=128)
