# 1,281,167 images // 4096 = 312 optimizer steps an epoch, 31,200 in 100 epochs.
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="LARSConstructor",
    # lr 16 = 4096 images / 256
    optimizer=dict(
        type="MultiTensorLARS", lr=16.0, momentum=0.9, weight_decay=1e-5, eta=1e-3
    ),
    # norm layers and biases by module type; 'released' for the authors' regex
    paramwise_cfg=dict(lars_exclude="norm_and_bias"),
    clip_grad=dict(max_norm=500),
)

# The host's chainable schedulers multiply. 3,127 steps of warm-up end at the
# 3,128th value, hence `end`.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-4, by_epoch=False, begin=0, end=3128),
    dict(
        type="CosineAnnealingLR",
        T_max=31200,
        eta_min=1e-4,
        by_epoch=False,
        begin=0,
        end=31200,
    ),
]
# One permutation of the images follows the other without a pause, so a run that
# stopped anywhere resumes at the very next batch.
train_cfg = dict(type="IterBasedTrainLoop", max_iters=31200)
