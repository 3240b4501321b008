# The paper's recipe on COCO's train2017: as many steps of as many images.
# 31,200 x 4,096 / 118,287 = 1,080 times each image; 118,287 // 4,096 = 28 steps a
# permutation, of which 31,200 steps see 1,114, each without its last 3,599 images.
_base_ = [
    "../_base_/models/mcl_resnet50-fpn.py",
    "../_base_/datasets/coco_mcl_224.py",
    "../_base_/schedules/mcl_lars_coslr_100e.py",
    "../_base_/default_runtime.py",
]

# float16 with a loss scale of at most 2^14: it starts there, halves when a step
# overflows, and never grows.
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="float16",
    loss_scale=dict(init_scale=2.0**14, growth_interval=10**9),
)
# The steps of 100 epochs of ImageNet, warm-up included
train_cfg = dict(max_epochs=None, max_iters=31200)
default_hooks = dict(
    param_scheduler=dict(warmup_epochs=None, warmup_steps=3127),
    checkpoint=dict(interval=3120),
)
auto_scale_lr = dict(base_batch_size=4096)  # 32 x 128 per iteration
