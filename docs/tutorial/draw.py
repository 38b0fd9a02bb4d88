"""Draws images to experiment with: 300 discs, 300 squares and 300 triangles in random colours, in directories.

    python3 docs/tutorial/draw.py

It needs only Python's standard library, and draws the same images every time.
"""

import colorsys
import pathlib
import random
import struct
import zlib

SIDE, COUNT = 32, 300
SHAPES = {
    "disc": lambda x, y: x * x + y * y < 1,
    "square": lambda x, y: max(abs(x), abs(y)) < 0.9,
    "triangle": lambda x, y: -1 < y < 0.8 and abs(x) < (y + 1) * 0.6,
}


def image(shape):
    """The rows of an image, three bytes per pixel: a shape on a darker background."""
    colour = colorsys.hsv_to_rgb(random.random(), random.uniform(0.5, 1.0), random.uniform(0.7, 1.0))
    ground = random.uniform(0.0, 0.25)
    radius, left, top = random.uniform(10, 13), random.uniform(15, 17), random.uniform(15, 17)
    for row in range(SIDE):
        line = bytearray()
        for column in range(SIDE):
            # Nine sample points per pixel give smooth edges.
            xs = [(column + (third + 0.5) / 3 - left) / radius for third in range(3)]
            ys = [(row + (third + 0.5) / 3 - top) / radius for third in range(3)]
            inside = sum(shape(x, y) for x in xs for y in ys) / 9
            line.extend(round(255 * (inside * channel + (1 - inside) * ground)) for channel in colour)
        yield bytes(line)


def png(rows):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


random.seed(0)
for name, shape in SHAPES.items():
    folder = pathlib.Path("images", name)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(COUNT):
        (folder / f"{index:03}.png").write_bytes(png(image(shape)))
