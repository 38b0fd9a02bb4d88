"""Makes the pictures of this folder, and prints what PIL (LittleCMS) shows of those with a profile.

    pip install numpy pillow
    python3 make.py
"""

import io
import struct

import numpy as np
from PIL import Image, ImageCms

s15 = lambda x: struct.pack(">i", int(round(x * 65536)))
xyz = lambda v: b"XYZ \0\0\0\0" + b"".join(map(s15, v))


def profile(space, tags):
    """An ICC profile of version 2 with these tags."""
    tags = [(b"cprt", b"text\0\0\0\0x\0"), (b"wtpt", xyz((0.9642, 1, 0.8249)))] + tags
    text = b"test\0"
    tags.insert(0, (b"desc", b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 79))
    table, data, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, tag in tags:
        tag += b"\0" * (-len(tag) % 4)
        table += name + struct.pack(">II", offset + len(data), len(tag))
        data += tag
    header = bytearray(128)
    header[0:4] = struct.pack(">I", 128 + len(table) + len(data))
    header[8:12], header[12:16], header[16:20], header[20:24] = b"\2\x10\0\0", b"mntr", space, b"XYZ "
    header[36:40], header[68:80] = b"acsp", s15(0.9642) + s15(1) + s15(0.8249)
    return bytes(header) + table + data


curve = lambda gamma: b"curv\0\0\0\0" + struct.pack(">IH", 1, int(gamma * 256))
wide = profile(
    b"RGB ",
    [(name, xyz(v)) for name, v in [
        (b"rXYZ", (0.60974, 0.31111, 0.01947)), (b"gXYZ", (0.20528, 0.62567, 0.06087)), (b"bXYZ", (0.14919, 0.06322, 0.74457))
    ]] + [(name, curve(2.19921875)) for name in [b"rTRC", b"gTRC", b"bTRC"]],
)
grey = profile(b"GRAY", [(b"kTRC", curve(1.0))])
srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def shown(color, mode, icc):
    picture = Image.new(mode, (4, 4), color)
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB").getpixel((0, 0))


skin = (220, 170, 140)
for ending in ["png", "jpg", "webp", "tif"]:
    Image.new("RGB", (8, 8), skin).save(f"wide.{ending}", icc_profile=wide, **({"lossless": True} if ending == "webp" else {}))
Image.new("L", (4, 4), 60).save("grey_linear.png", icc_profile=grey)
Image.new("RGB", (8, 8), skin).save("srgb.png", icc_profile=srgb)
Image.new("RGB", (8, 8), skin).save("broken_profile.png", icc_profile=b"no profile")
Image.new("CMYK", (8, 8), (0, 100, 200, 20)).save("cmyk.jpg", icc_profile=profile(b"CMYK", []))
for color, mode, icc in [(skin, "RGB", wide), ((230, 60, 50), "RGB", wide), ((60, 200, 70), "RGB", wide), (60, "L", grey)]:
    print(color, mode, shown(color, mode, icc))


def tiff(name, pixels, samples, bits, photometric, format=1, extra=None, palette=None):
    """A TIFF of 8x8 pixels in one strip."""
    tags = [(256, 3, [8]), (257, 3, [8]), (258, 3, [bits] * samples), (259, 3, [1]), (262, 3, [photometric]),
            (273, 4, [0]), (277, 3, [samples]), (278, 3, [8]), (279, 4, [len(pixels)])]
    if palette:
        tags.append((320, 3, palette))
    if extra is not None:
        tags.append((338, 3, [extra]))
    tags.append((339, 3, [format] * samples))
    end = 8 + 2 + 12 * len(tags) + 4
    entries, beyond = b"", b""
    place = end + sum(-(-len(v) * (2 if t == 3 else 4) // 4) * 4 for _, t, v in tags if len(v) * (2 if t == 3 else 4) > 4)
    for tag, kind, values in tags:
        values = [place] if tag == 273 else values
        data = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        data += b"\0" * (-len(data) % 4)
        if len(data) > 4:
            data, beyond = struct.pack("<I", end + len(beyond)), beyond + data
        entries += struct.pack("<HHI", tag, kind, len(values)) + data
    open(name, "wb").write(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0" * 4 + beyond + pixels)


# Half covered (220, 40, 30), multiplied by alpha and not: 237, 147, 142 on white.
tiff("associated.tif", bytes([110, 20, 15, 128]) * 64, 4, 8, 2, extra=1)
tiff("straight.tif", bytes([220, 40, 30, 128]) * 64, 4, 8, 2, extra=2)
tiff("grey_alpha.tif", bytes([40, 128]) * 64, 2, 8, 1, extra=2)
tiff("palette8.tif", bytes([7]) * 64, 1, 8, 3, palette=[0x1010] * 7 + [0xC8C8] + [0] * 248 + [0] * 7 + [0x6464] + [0] * 248 + [0] * 7 + [0x3232] + [0] * 248)
tiff("palette4.tif", bytes([0x22]) * 32, 1, 4, 3, palette=[0] * 2 + [0xC8C8] + [0] * 13 + [0] * 2 + [0x6464] + [0] * 13 + [0] * 2 + [0x3232] + [0] * 13)
tiff("grey4.tif", bytes([0x33]) * 32, 1, 4, 1)
tiff("grey32.tif", struct.pack("<I", 0x80808080) * 64, 1, 32, 1)
# Light of 0.5, 0.25 and 0: 188, 137 and 0.
tiff("float_grey.tif", struct.pack("<f", 0.5) * 64, 1, 32, 1, format=3)
tiff("float16_grey.tif", struct.pack("<e", 0.5) * 64, 1, 16, 1, format=3)
tiff("float_colour.tif", struct.pack("<3f", 0.5, 0.25, 0) * 64, 3, 32, 2, format=3)
tiff("float_bytes.tif", struct.pack("<f", 200) * 64, 1, 32, 1, format=3)
tiff("signed.tif", struct.pack("<i", 77) * 64, 1, 32, 1, format=2)
tiff("lab.tif", bytes([100, 0, 0]) * 64, 3, 8, 8)

# Radiance: mantissas and a shared exponent; light of 0.5, 0.25 and 0.
open("linear.hdr", "wb").write(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 8 +X 8\n" + bytes([128, 64, 0, 128]) * 64)
# A channel of 0.5 in a QOI that says that it is linear: 188.
qoi = lambda linear: b"qoif" + struct.pack(">II", 8, 8) + bytes([3, linear]) + bytes([0xFE, 128, 128, 128]) * 64 + bytes(7) + b"\1"
open("linear.qoi", "wb").write(qoi(1))
# TGA 2.0 with alpha of type 4.
extension = bytearray(495)
extension[:2], extension[494] = struct.pack("<H", 495), 4
head = bytes([0, 0, 2]) + bytes(9) + struct.pack("<HH", 8, 8) + bytes([32, 0x28]) + bytes([15, 20, 110, 128]) * 64
open("associated.tga", "wb").write(head + bytes(extension) + struct.pack("<II", len(head), 0) + b"TRUEVISION-XFILE.\0")
# An icon whose PNG has a palette.
png = io.BytesIO()
Image.new("RGB", (8, 8), (200, 100, 50)).convert("P", palette=Image.Palette.ADAPTIVE).save(png, "PNG")
png = png.getvalue()
open("palette.ico", "wb").write(struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 8, 8, 0, 0, 1, 8, len(png), 22) + png)
