# What the peers transfer: the backbone alone. The other starts of this row are
# mask-rcnn_r50-{random,sup-pre,mcl-pre}_fpn_1x_coco.py.
_base_ = "mask-rcnn_r50-random_fpn_1x_coco.py"

load_from = "work_dirs/mcl_resnet50-fpn_backbone.pth"
