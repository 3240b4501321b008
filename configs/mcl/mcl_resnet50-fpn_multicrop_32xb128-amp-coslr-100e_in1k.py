# Control: the same small crops, each an image of its own in place of a tile of a
# canvas. Batch norm of the backbone then sees one level at a time.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

model = dict(data_preprocessor=dict(montage=dict(on_canvas=False)))
