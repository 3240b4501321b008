# Assignment (c): a level is matched with the targets of its own level and of those
# beside it.
# The paper's results use (a), the image alone; here the target network runs on all
# canvases.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

model = dict(head=dict(assignment="neighbors"))
