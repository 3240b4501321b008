_base_ = "mask-rcnn_r50-random_fpn_2x_wd25e-6_coco.py"

load_from = "work_dirs/mcl_resnet50-fpn_mask-rcnn.pth"
