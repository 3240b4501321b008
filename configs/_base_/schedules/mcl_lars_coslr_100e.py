# Of ImageNet: 1,281,167 images // 4096 = 312 optimizer steps an epoch, 31,200 in all;
# warm-up floor(10 x 1,281,167 / 4096) = 3,127 steps.
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

# Warm-up times cosine. Ends are left open: the warm-up is that of
# default_hooks.param_scheduler, the cosine lasts until the last optimizer step.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-4, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=1e-4, by_epoch=False),
]
train_cfg = dict(type="MCLTrainLoop", max_epochs=100)
