"""Draws the ten digits of `payloads/`: 28x28 grey JPEGs in Pillow's own font, so that no licence applies to them.

    python -m loadtest.traffic.draw_digits loadtest/traffic/payloads/digits

The files are committed; this program made them. White on black, like scikit-learn's digits.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE_PIXELS = 28


def draw(digit: int) -> Image.Image:
    """Returns a picture of one digit, centred, in Pillow's font."""
    picture = Image.new("L", (SIZE_PIXELS, SIZE_PIXELS), 0)
    font = ImageFont.load_default(size=26)
    middle = (SIZE_PIXELS / 2, SIZE_PIXELS / 2)
    ImageDraw.Draw(picture).text(middle, str(digit), fill=255, font=font, anchor="mm")
    return picture


def main(folder: Path) -> None:
    """Writes `digit_0.jpg` to `digit_9.jpg` into `folder`."""
    for digit in range(10):
        draw(digit).save(folder / f"digit_{digit}.jpg", quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
