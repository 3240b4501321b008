# Statistics of the norm layers anew before each evaluation: those that training
# keeps are averages over weights that have changed since. The module stands alone;
# nothing of mcl is imported.
custom_imports = dict(imports=["precise_bn"], allow_failed_imports=False)
custom_hooks = [dict(type="PreciseBNHook", num_batches=200)]
