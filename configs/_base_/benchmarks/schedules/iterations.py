# What all schedules share: SGD and everything counted in iterations.
_base_ = "mmdet::_base_/default_runtime.py"

optim_wrapper = dict(
    type="OptimWrapper",
    # lr .02 for 16 images
    optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4),
    # norm layers do not decay, as in Detectron2
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)  # 8 GPUs x 2 images
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(
    checkpoint=dict(by_epoch=False),
    # evaluations are logged with their iteration
    logger=dict(log_metric_by_epoch=False),
)
log_processor = dict(by_epoch=False)
