# Norm layers: layer norm in the backbone as it has it, batch norm in FPN, convs, MLPs.
_base_ = [
    "../_base_/models/mcl_resnet50-fpn.py",
    "../_base_/datasets/images_mcl_224.py",
    "../_base_/schedules/mcl_adamw_coslr_100e.py",
    "../_base_/default_runtime.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="SwinTransformer",
        arch="tiny",
        img_size=224,  # maps of 56, 28, 14 and 7 cells: windows of 7 divide them
        drop_path_rate=0.1,
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(type="BFloat16OptimWrapper")
default_hooks = dict(checkpoint=dict(interval=3120))  # 10 epochs
auto_scale_lr = dict(base_batch_size=4096)  # 32 x 128 per iteration
