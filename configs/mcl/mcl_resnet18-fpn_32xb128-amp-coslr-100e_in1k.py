_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

model = dict(backbone=dict(depth=18), neck=dict(in_channels=[64, 128, 256, 512]))
