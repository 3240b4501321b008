# DenseCL of MMPretrain on the same backbone and images.
_base_ = "mocov2.py"

model = dict(
    type="DenseCL",
    loss_lambda=0.5,
    neck=dict(
        _delete_=True, type="DenseCLNeck", in_channels=256, num_grid=None, **_base_.mlp
    ),
)
find_unused_parameters = True
