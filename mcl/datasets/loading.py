"""Reading images of unknown quality."""

from mmcv.transforms import LoadImageFromFile
from mmpretrain.registry import TRANSFORMS


class UnreadableImage(Exception):
    """An image file could not be decoded to its end."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@TRANSFORMS.register_module()
class LoadImageOrRaise(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that says which file it could not read.

    It decodes with Pillow by default: OpenCV fills the missing part of a
    truncated JPEG with grey and reports success.

    Required Keys:
        - img_path

    Added Keys:
        - img (uint8, (H, W, 3), BGR), img_shape, ori_shape

    Raises:
        UnreadableImage: whatever the decoder complained about, with the path.
    """

    def __init__(self, imdecode_backend: str = "pillow", **kwargs) -> None:
        super().__init__(imdecode_backend=imdecode_backend, **kwargs)

    def transform(self, results: dict) -> dict:
        path = results["img_path"]
        try:
            results = super().transform(results)
        except Exception as error:  # decoders raise many kinds
            raise UnreadableImage(path, f"{type(error).__name__}: {error}") from error
        if results is None or results["img"] is None or results["img"].size == 0:
            raise UnreadableImage(path, "it decodes to an empty image")
        return results
