"""Reading images of unknown quality."""

from io import BytesIO

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmpretrain.registry import TRANSFORMS
from PIL import Image, ImageOps

from ..errors import InputError
from .archives import read_member

# EXIF's tag, and its values by which an image lies on its side.
ORIENTATION, ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)
# Under transparent gray pixels; the hosts' loader takes it too.
GROUND = (124, 117, 104)


class UnreadableImage(Exception):
    """An image file could not be decoded to its end."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class LazyImage:
    """A JPEG of which only the header has been read.

    Args:
        content: of the file.
        path: for messages.

    Attributes:
        shape: height and width at full size, upright.
        is_jpeg: whether that is what it is.

    Raises:
        PIL.UnidentifiedImageError: when it is no image.
    """

    def __init__(self, content: bytes, path: str) -> None:
        self.path = path
        self.image = Image.open(BytesIO(content))
        self.is_jpeg = self.image.format in ("JPEG", "MPO")
        width, height = self.image.size
        on_its_side = self.image.getexif().get(ORIENTATION) in ON_ITS_SIDE
        self.shape = (width, height) if on_its_side else (height, width)

    def decode(self, reduction: int = 1) -> tuple[np.ndarray, int]:
        """Decode once, where the format allows it at a fraction of the size.

        JPEG is decoded at a fraction by leaving out frequencies, so without
        aliasing and in less time.

        Args:
            reduction: of each side: 1, 2, 4 or 8.

        Returns:
            uint8 BGR (H, W, 3), upright, and the reduction that was done: the one
            asked for or 1.

        Raises:
            UnreadableImage: whatever the decoder complained about.
        """
        try:
            return self.decode_now(reduction)
        except Exception as error:  # decoders raise many kinds
            raise unreadable(self.path, error) from error

    def decode_now(self, reduction: int = 1) -> tuple[np.ndarray, int]:
        """As :meth:`decode`, with the decoder's own errors."""
        full = self.image.size
        self.image.draft(None, tuple(max(1, side // reduction) for side in full))
        done = round(max(full) / max(self.image.size))
        rgb = np.array(to_rgb(ImageOps.exif_transpose(self.image)))
        return rgb[..., ::-1], done


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image of any mode, as mmcv's Pillow backend makes it."""
    if image.mode != "LA":
        return image.convert("RGB")
    ground = Image.new("RGB", image.size, GROUND)
    image = image.convert("RGBA")
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def unreadable(path: str, error: Exception) -> UnreadableImage:
    return UnreadableImage(path, f"{type(error).__name__}: {error}")


@TRANSFORMS.register_module()
class LoadImageOrRaise(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that says which file it could not read.

    It decodes with Pillow by default: OpenCV fills the missing part of a
    truncated JPEG with gray and reports success.

    Required Keys:
        - img_path
        - member (optional): where the image lies in an archive, as
          :class:`~mcl.datasets.ArchiveImages` gives it

    Added Keys:
        - img (uint8, (H, W, 3), BGR; a :class:`LazyImage` where it is to be so),
          img_shape, ori_shape

    Args:
        imdecode_backend: one of mmcv's.
        defer: whether of a JPEG only the header is read here and
            :class:`~mcl.datasets.MultiLevelViews`, which must come next, decodes it: a
            large one at a fraction of its size, where its crops allow that.
        **kwargs: passed to mmcv's ``LoadImageFromFile``.

    Raises:
        UnreadableImage: whatever the decoder complained about, with the path.
        InputError: when ``defer`` goes with a setting that it has no use for.
    """

    def __init__(
        self, imdecode_backend: str = "pillow", defer: bool = False, **kwargs
    ) -> None:
        super().__init__(imdecode_backend=imdecode_backend, **kwargs)
        self.defer = defer
        plain = self.color_type == "color" and not self.to_float32
        if defer and not (plain and imdecode_backend == "pillow"):
            raise InputError(
                "defer=True decodes uint8 color with Pillow: leave imdecode_backend, "
                "color_type and to_float32 at their defaults, or set defer=False"
            )

    def transform(self, results: dict) -> dict:
        path = results["img_path"]
        try:
            if self.defer:
                image = LazyImage(self._read(results), path)
                # Other formats gain nothing, and a TIFF turns as it is decoded.
                image = image if image.is_jpeg else image.decode_now()[0]
                results.update(img=image, img_shape=image.shape[:2])
                results["ori_shape"] = image.shape[:2]
            elif "member" in results:
                results = self._load_member(results)
            else:
                results = super().transform(results)
        except Exception as error:  # decoders raise many kinds
            raise unreadable(path, error) from error
        if results is None or results["img"] is None or 0 in results["img"].shape:
            raise UnreadableImage(path, "it decodes to an empty image")
        return results

    def _read(self, results: dict) -> bytes:
        if "member" in results:
            return read_member(*results["member"])
        return fileio.get(results["img_path"], backend_args=self.backend_args)

    def _load_member(self, results: dict) -> dict:
        image = mmcv.imfrombytes(
            self._read(results), self.color_type, backend=self.imdecode_backend
        )
        results["img"] = image.astype("float32") if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results
