# 8 GPUs x 128 images, no accumulation: an image is told from 1024.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

# lr 4 = 1024 images / 256
optim_wrapper = dict(optimizer=dict(lr=4.0))
# 1,281,167 // 1024 = 1,251 steps an epoch, 125,100 in all
default_hooks = dict(checkpoint=dict(interval=12510))
auto_scale_lr = dict(base_batch_size=1024)
