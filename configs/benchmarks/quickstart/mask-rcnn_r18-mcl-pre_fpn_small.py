# From what mcl_resnet18-fpn_quickstart.py pre-trained; else its twin.
_base_ = "mask-rcnn_r18-random_fpn_small.py"

load_from = "work_dirs/quickstart/mcl_mask-rcnn.pth"
