# Control: the tiles lie in the order of the batch, so that an image has the same place
# and neighbors in both views.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

model = dict(data_preprocessor=dict(montage=dict(shuffle=False)))
