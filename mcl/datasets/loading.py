"""Reading images of unknown quality."""

import mmcv
from mmcv.transforms import LoadImageFromFile
from mmpretrain.registry import TRANSFORMS

from .archives import read_member


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
        - member (optional): where the image lies in an archive, as
          :class:`~mcl.datasets.ArchiveImages` gives it

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
            if "member" in results:
                results = self._load_member(results)
            else:
                results = super().transform(results)
        except Exception as error:  # decoders raise many kinds
            raise UnreadableImage(path, f"{type(error).__name__}: {error}") from error
        if results is None or results["img"] is None or results["img"].size == 0:
            raise UnreadableImage(path, "it decodes to an empty image")
        return results

    def _load_member(self, results: dict) -> dict:
        content = read_member(*results["member"])
        image = mmcv.imfrombytes(
            content, self.color_type, backend=self.imdecode_backend
        )
        results["img"] = image.astype("float32") if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results
