# 8 GPUs x 128 images x 4 iterations = 4096 images per optimizer step.
# What accumulation does not give: an image is told from the 1,024 of its own
# iteration, not from 4,096, and BN sees 1,024.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

optim_wrapper = dict(accumulative_counts=4)
# 1,281,167 // 1024 = 1,251 iterations an epoch, 125,100 in all: 31,275 optimizer steps.
default_hooks = dict(checkpoint=dict(interval=12512))  # 3,128 steps, 10 epochs
auto_scale_lr = dict(base_batch_size=1024)  # 8 x 128 per iteration
