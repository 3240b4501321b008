"""Loading of image files that may be damaged."""

from io import BytesIO

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmpretrain.registry import TRANSFORMS
from PIL import Image, ImageOps

from ..errors import InputError
from .archives import read_member

# EXIF's orientation tag, and its values for an image that lies on its side.
ORIENTATION, ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)
# Background of transparent gray images, as in mmcv.
BACKGROUND = (124, 117, 104)


class UnreadableImage(Exception):
    """An image file could not be decoded to its end."""

    def __init__(self, path: str, reason: str | Exception) -> None:
        if isinstance(reason, Exception):
            reason = f"{type(reason).__name__}: {reason}"
        super().__init__(path, reason)
        self.path = path

    def __str__(self) -> str:
        return ": ".join(self.args)


class LazyImage:
    """An image of which only the header has been read.

    Args:
        content: bytes of the file.
        path: for error messages.

    Attributes:
        shape: height and width at full size, upright.
        is_jpeg: whether :meth:`decode` can reduce its size.

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
        """Decode the image once, a JPEG at a fraction of its size if asked for.

        A JPEG is reduced by leaving out high frequencies. This avoids aliasing and
        saves time.

        Args:
            reduction: divisor of both sides: 1, 2, 4 or 8.

        Returns:
            The image, uint8 BGR (H, W, 3), upright. The reduction that was applied:
            ``reduction`` or 1.

        Raises:
            UnreadableImage: for any error of the decoder.
        """
        try:
            full = self.image.size
            self.image.draft(None, tuple(max(1, side // reduction) for side in full))
            applied = round(max(full) / max(self.image.size))
            rgb = np.array(to_rgb(ImageOps.exif_transpose(self.image)))
            return rgb[..., ::-1], applied
        except Exception as error:  # decoders raise many kinds
            raise UnreadableImage(self.path, error) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, as mmcv's Pillow backend does."""
    if image.mode != "LA":
        return image.convert("RGB")
    background = Image.new("RGB", image.size, BACKGROUND)
    image = image.convert("RGBA")
    background.paste(image, mask=image.getchannel("A"))
    return background


@TRANSFORMS.register_module()
class LoadImageOrRaise(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` with errors that name the file.

    Pillow is the default decoder. OpenCV fills the missing part of a truncated JPEG
    with gray and reports success.

    Required Keys:
        - img_path
        - member (optional): the image's place in an archive, set by
          :class:`~mcl.datasets.ArchiveImages`

    Added Keys:
        - img (uint8, (H, W, 3), BGR; for a JPEG with ``defer`` a :class:`LazyImage`)
        - img_shape
        - ori_shape

    Args:
        imdecode_backend: one of mmcv's.
        defer: whether to read only the header of a JPEG.
            :class:`~mcl.datasets.MultiLevelViews` must come next and decodes it, at a
            fraction of its size where the crops allow that.
        **kwargs: passed to mmcv's ``LoadImageFromFile``.

    Raises:
        UnreadableImage: for any error of the decoder, with the path.
        InputError: when ``defer`` is combined with a setting that it cannot follow.
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
            if "member" in results:
                content = read_member(*results["member"])
            else:
                content = fileio.get(path, backend_args=self.backend_args)
            image = self._open(content, path)
        except UnreadableImage:
            raise
        except Exception as error:  # decoders raise many kinds
            raise UnreadableImage(path, error) from error
        if image is None or 0 in image.shape:
            raise UnreadableImage(path, "it decodes to an empty image")
        shape = image.shape[:2]
        results.update(img=image, img_shape=shape, ori_shape=shape)
        return results

    def _open(self, content: bytes, path: str) -> LazyImage | np.ndarray | None:
        if self.defer:
            image = LazyImage(content, path)
            # Other formats gain nothing, and a TIFF changes its shape when decoded.
            return image if image.is_jpeg else image.decode()[0]
        image = mmcv.imfrombytes(
            content, self.color_type, backend=self.imdecode_backend
        )
        if self.to_float32 and image is not None:
            image = image.astype(np.float32)
        return image
