_base_ = "mask-rcnn_r50-random_c4_1x_coco.py"

load_from = "work_dirs/mcl_resnet50-fpn_c4.pth"
