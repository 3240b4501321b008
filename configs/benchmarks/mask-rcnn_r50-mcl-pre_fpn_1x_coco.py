# COCO Mask R-CNN R50-FPN 1x from MCL weights, by the protocol of the paper but for
# its PreciseBN. The exported file fills backbone, FPN and box-head convs.
_base_ = "mask-rcnn_r50-random_fpn_1x_coco.py"

load_from = "work_dirs/mcl_resnet50-fpn_mask-rcnn.pth"
