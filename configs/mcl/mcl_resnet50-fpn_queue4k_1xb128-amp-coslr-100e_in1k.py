# One GPU x 128 images with a queue. Adding up gradients makes the step of a large
# batch, but an image is still told from the 128 of its iteration; a queue gives the
# negatives of a large batch: the 4096 targets of the last 16 iterations, both views.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

model = dict(head=dict(queue=4096))
# lr .5 = 128 images / 256
optim_wrapper = dict(optimizer=dict(lr=0.5))
# 1,281,167 // 128 = 10,009 steps an epoch, 1,000,900 in all
default_hooks = dict(checkpoint=dict(interval=2000))
auto_scale_lr = dict(base_batch_size=128)
