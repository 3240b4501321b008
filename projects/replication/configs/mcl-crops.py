# MCL with every tile alone in its image: crops of four sizes, no montage.
_base_ = "mcl.py"

model = dict(data_preprocessor=dict(montage=dict(on_canvas=False)))
