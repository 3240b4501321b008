# BYOL of MMPretrain on the same backbone and images.
_base_ = "mocov2.py"

nonlinear = dict(
    type="NonLinearNeck", num_layers=2, with_bias=True, with_last_bn=False, **_base_.mlp
)
model = dict(
    _delete_=True,
    type="BYOL",
    base_momentum=0.1,  # as MCL's
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    neck=dict(in_channels=256, with_avg_pool=True, **nonlinear),
    head=dict(
        type="LatentPredictHead",
        predictor=dict(
            in_channels=_base_.mlp.out_channels, with_avg_pool=False, **nonlinear
        ),
        loss=dict(type="CosineSimilarityLoss"),
    ),
)
# The search's middle, as of the rows that were not tried yet.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
