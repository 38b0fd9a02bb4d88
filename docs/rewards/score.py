"""An example of a program that scores: how bright a picture is, and how alike its left and right halves are.

It needs nothing but Python's standard library. Run it by `program = ["python3", "docs/rewards/score.py"]`.
"""

import base64
import json
import struct
import sys
import zlib


def rows_of(png):
    """The rows of a picture, each pixel a list of bytes. Pictures come without filters, so zlib is enough."""
    at, compressed = 8, b""
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        chunk = png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, _, colour = struct.unpack(">IIBB", chunk[:10])
        elif kind == b"IDAT":
            compressed += chunk
        at += length + 12
    channels = 3 if colour == 2 else 1
    data, stride = zlib.decompress(compressed), 1 + channels * width
    lines = [data[y * stride + 1 : (y + 1) * stride] for y in range(height)]
    return [[list(line[channels * x : channels * (x + 1)]) for x in range(width)] for line in lines]


def score(item):
    rows = rows_of(base64.b64decode(item["image"]))
    values = [value for row in rows for pixel in row for value in pixel]
    mirrored = [value for row in rows for pixel in reversed(row) for value in pixel]
    distance = sum(abs(a - b) for a, b in zip(values, mirrored))
    return {"brightness": sum(values) / len(values) / 255, "symmetry": 1 - distance / len(values) / 255}


for line in sys.stdin:
    request = json.loads(line)
    answer = {"id": request["id"], "scores": [score(item) for item in request["items"]]}
    if "hello" in request:
        answer["components"] = ["brightness", "symmetry"]
    print(json.dumps(answer), flush=True)
