"""Scores how well the left and right halves of an image mirror each other, 0 to 1, using only the standard library."""

import base64, json, struct, sys, zlib


def rows_of(png):
    """The rows of an image, each a list of pixels. Rows have no PNG filters, so zlib is enough."""
    width, height, _, colour = struct.unpack(">IIBB", png[16:26])
    at, compressed = 8, b""
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        if kind == b"IDAT":
            compressed += png[at + 8 : at + 8 + length]
        at += length + 12
    channels = 3 if colour == 2 else 1
    data, stride = zlib.decompress(compressed), 1 + channels * width
    lines = [data[y * stride + 1 : (y + 1) * stride] for y in range(height)]
    return [[line[channels * x : channels * (x + 1)] for x in range(width)] for line in lines]


def symmetry(item):
    rows = rows_of(base64.b64decode(item["image"]))
    pairs = [(p, q) for row in rows for left, right in zip(row, row[::-1]) for p, q in zip(left, right)]
    return 1 - sum(abs(p - q) for p, q in pairs) / len(pairs) / 255


for line in sys.stdin:
    request = json.loads(line)
    scores = [symmetry(item) for item in request["items"]]
    print(json.dumps({"id": request["id"], "scores": scores}), flush=True)
