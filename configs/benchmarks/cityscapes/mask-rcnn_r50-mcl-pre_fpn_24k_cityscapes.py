_base_ = "mask-rcnn_r50-random_fpn_24k_cityscapes.py"

load_from = "work_dirs/mcl_resnet50-fpn_mask-rcnn.pth"
