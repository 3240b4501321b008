# The paper's 4096 images per step, and so its negatives, on 8 GPUs x 512: bfloat16,
# and the activations of one view at a time.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

model = dict(early_backward=True)  # not with float16
train_dataloader = dict(batch_size=512, num_workers=16)
optim_wrapper = dict(
    _delete_=True,
    type="BFloat16OptimWrapper",
    constructor=_base_.optim_wrapper.constructor,
    optimizer=_base_.optim_wrapper.optimizer,  # lr 16 = 4096 images / 256
    paramwise_cfg=_base_.optim_wrapper.paramwise_cfg,
    clip_grad=_base_.optim_wrapper.clip_grad,
)
