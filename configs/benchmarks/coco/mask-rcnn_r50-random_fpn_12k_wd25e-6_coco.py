# The paper's second weight decay: 1e-4 / 4 = 2.5e-5.
_base_ = "mask-rcnn_r50-random_fpn_12k_coco.py"

optim_wrapper = dict(optimizer=dict(weight_decay=2.5e-5))
