# BYOL of MMPretrain on the same backbone and images.
_base_ = "mocov2.py"

model = dict(
    _delete_=True,
    type="BYOL",
    base_momentum=0.1,  # as MCL's
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    neck=dict(
        type="NonLinearNeck",
        in_channels=256,
        hid_channels=512,
        out_channels=128,
        num_layers=2,
        with_bias=True,
        with_last_bn=False,
        with_avg_pool=True,
    ),
    head=dict(
        type="LatentPredictHead",
        predictor=dict(
            type="NonLinearNeck",
            in_channels=128,
            hid_channels=512,
            out_channels=128,
            num_layers=2,
            with_bias=True,
            with_last_bn=False,
            with_avg_pool=False,
        ),
        loss=dict(type="CosineSimilarityLoss"),
    ),
)
# The search's middle, as of the rows that were not tried yet.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
