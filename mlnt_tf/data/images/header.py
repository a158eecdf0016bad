"""Size and kind of an image file from its bytes, without decoding it. Standard library only."""

import os
import re
import stat

HEADER_BYTES = 2**18  # A JPEG may hold color profiles and previews before its size.
# Markers that begin a frame of a JPEG; the others from C0 to CF are tables.
FRAME_MARKERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}

TAIL_BYTES = 64  # Bytes that may follow the end of an image.
CUT_OFF = "cut off at the end; copy or download it again"
# {reason: how the file begins}, of files that are no images.
NO_IMAGES = {
    "a Git LFS pointer instead of the image; run git lfs pull": rb"version https://git-lfs",
    "an HTML page instead of an image; download it again": rb"\s*(?i:<!doctype html|<html|<head)",
    "an SVG drawing; convert it to PNG": rb"\s*(<\?xml[^>]*>)?\s*<svg",
    "an XML or JSON text instead of an image; download it again": rb"\s*(<\?xml|[{\[]\s*\")",
    "a TIFF image, which is not supported; convert it to PNG": rb"II\*\0|MM\0\*",
    "a HEIC or AVIF image, which is not supported; convert it to JPEG":
        rb"....ftyp(hei|hev|mif|msf|avi)",
    "a PDF document; convert it to PNG": rb"%PDF"}


def describe_content(path):
    """Returns why a regular file is not an image that can be decoded, or "" if that is not clear.

    Raises:
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - TAIL_BYTES, 0))
        tail = file.read()
    if not size:
        return "empty file"
    for reason, pattern in NO_IMAGES.items():
        if re.match(pattern, head, re.DOTALL):
            return reason
    return CUT_OFF if _is_cut_off(head, tail, size) else ""


def _is_cut_off(head, tail, size):
    """Returns whether the end of an image is missing."""
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if head.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    if head.startswith(b"GIF8"):
        return b"\x3b" not in tail
    if head.startswith(b"RIFF"):
        return size < _integers(head, 4, 4) + 8
    return head.startswith(b"BM") and size < _integers(head, 2, 4)


def read_header(path):
    """Returns the first bytes of a regular file, or b"" if there is none or it cannot be read.

    A FIFO or device is not opened, because that may block for ever.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return b""
        with open(path, "rb") as file:
            return file.read(HEADER_BYTES)
    except (OSError, ValueError):  # ValueError: the path contains a null byte.
        return b""


def image_size(header):
    """Returns the size of an image as stored, before EXIF's orientation.

    Args:
      header: bytes, the beginning of the file.

    Returns:
      (height, width) in pixels, or None if the format is not known or the header is too short.
    """
    size = None
    if header.startswith(b"\x89PNG\r\n\x1a\n"):
        size = _integers(header, 20, 4, "big"), _integers(header, 16, 4, "big")
    elif header.startswith((b"GIF87a", b"GIF89a")):
        size = _integers(header, 8, 2), _integers(header, 6, 2)
    elif header.startswith(b"BM"):
        size = abs(_integers(header, 22, 4, signed=True)), _integers(header, 18, 4)
    elif header.startswith(b"\xff\xd8"):
        size = _jpeg_size(header)
    elif header.startswith(b"RIFF") and header[8:12] == b"WEBP":
        size = _webp_size(header)
    return size if size and min(size) > 0 else None


def _integers(header, start, length, order="little", *, signed=False):
    return int.from_bytes(header[start:start + length], order, signed=signed)


def _jpeg_size(header):
    """Returns the (height, width) of the first frame of a JPEG, or None."""
    position = 2
    while position + 9 <= len(header):
        if header[position] != 0xFF:
            return None
        marker = header[position + 1]
        if marker == 0xFF:  # Padding.
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # Markers without a segment.
            position += 2
        elif marker in FRAME_MARKERS:
            return (_integers(header, position + 5, 2, "big"),
                    _integers(header, position + 7, 2, "big"))
        else:
            position += 2 + max(_integers(header, position + 2, 2, "big"), 2)
    return None


def _webp_size(header):
    """Returns the (height, width) of a WebP file of any of its three kinds, or None."""
    kind = header[12:16]
    if kind == b"VP8 ":
        return _integers(header, 28, 2) & 0x3FFF, _integers(header, 26, 2) & 0x3FFF
    if kind == b"VP8L":
        bits = _integers(header, 21, 4)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8X":
        return _integers(header, 27, 3) + 1, _integers(header, 24, 3) + 1
    return None
