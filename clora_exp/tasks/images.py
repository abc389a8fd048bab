"""Images: opening one that came from anywhere, and those that stand in an example themselves, as data URIs."""

import base64
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

FORMATS = (
    "PNG",
    "JPEG",
    "BMP",
    "WEBP",
    "GIF",
    "TIFF",
)  # Pillow has some that start other programs, whatever the suffix
MAX_PIXELS = 2**28 // 3  # a quarter of a GiB in RGB, and where Pillow begins to warn


def open_image(file: Path | io.BytesIO) -> Any:
    """Return a Pillow image, not decoded yet.

    Raises:
        OSError: it is no image of these formats, or one of too many pixels.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise OSError(f"it has more than {MAX_PIXELS:,} pixels") from None
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise OSError(f"it has {image.width:,} × {image.height:,} pixels; at most {MAX_PIXELS:,} are read")
    return image


def data_uri(pixels: np.ndarray) -> str:
    """Return an image, (height, width) or (height, width, 3) uint8, as a PNG in a data URI."""
    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG")
    return "data:image/png;base64," + base64.b64encode(packed.getvalue()).decode()
