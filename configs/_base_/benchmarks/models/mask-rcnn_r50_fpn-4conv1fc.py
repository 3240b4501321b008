# The paper's Mask R-CNN: norm layers in the heads too.
_base_ = "mask-rcnn_r50_fpn.py"

norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    roi_head=dict(
        # 4conv1fc, whose convs are pre-trained
        bbox_head=dict(type="Shared4Conv1FCBBoxHead", norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    )
)
