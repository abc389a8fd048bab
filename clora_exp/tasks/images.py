"""Images that stand in an example themselves, as data URIs."""

import base64
import io

import numpy as np


def data_uri(pixels: np.ndarray) -> str:
    """Return an image, (height, width) or (height, width, 3) uint8, as a PNG in a data URI."""
    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG")
    return "data:image/png;base64," + base64.b64encode(packed.getvalue()).decode()
