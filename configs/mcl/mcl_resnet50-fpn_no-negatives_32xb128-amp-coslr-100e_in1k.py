# Without negatives: 2 - 2 cosine with the matched target, as in BYOL. Nothing but the
# predictors and the slow target keeps it from collapsing: watch std and rank.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

model = dict(head=dict(loss=dict(type="MultiLevelRegressionLoss")))
