_base_ = "mask-rcnn_r50-random_fpn-2fc_2x_coco.py"

load_from = "work_dirs/mcl_resnet50-fpn_trunk.pth"
