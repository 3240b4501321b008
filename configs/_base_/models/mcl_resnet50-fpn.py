model = dict(
    type="MCL",
    size=224,
    # ratio 1 (images alone) is read from P5, 2 from P4, 4 from P3, 8 from P2
    ratios=(1, 2, 4, 8),
    # weight of the new value at the first update (paper: 0.99 kept), to 0 by cosine
    base_momentum=0.01,
    # how weights and maps lie in memory; the results are the same
    channels_last=True,
    data_preprocessor=dict(
        type="MCLDataPreprocessor",
        montage=dict(type="Montage"),
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        non_blocking=True,  # with pinned memory, copies overlap
    ),
    backbone=dict(
        type="ResNet",
        depth=50,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type="BN"),
        zero_init_residual=False,
    ),
    neck=dict(type="MCLNeck", in_channels=[256, 512, 1024, 2048]),
    head=dict(
        type="MCLHead",
        loss=dict(
            type="MultiLevelContrastiveLoss",
            level_weights=(1 / 2, 1 / 4, 1 / 8, 1 / 8),
            temperature=1.0,
        ),
    ),
)
