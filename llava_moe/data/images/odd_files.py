"""What a file is that stands under an image's name and is none, told by its content; and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD = 4096
"""Bytes from its start by which a file is known."""
TAIL = 64


@dataclass(frozen=True)
class OddFile:
    """What a file is, as words that follow "is", and what to do.

    ``holds_picture``: it may hold the picture that is meant, in a form that is not read.
    """

    what: str
    remedy: str
    holds_picture: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


_FETCH = "fetch it again"
_CONVERT = "convert it to JPEG or PNG"
_WITHIN = "unpack it, and give the path of the image inside"

EMPTY = OddFile("an empty file", f"{_FETCH}; a full disk or a stopped copy leaves these")
CUT = OddFile("cut short", f"{_FETCH} or copy it again")
_HEIC = OddFile("a HEIC photo", f"{_CONVERT} (heif-convert or the phone's own export)", True)
_DICOM = OddFile(
    "a DICOM scan",
    "write its slices as 16-bit PNG or TIFF, and give the source their value_range: [low, high]",
    True,
)
_SVG = OddFile("an SVG drawing, which holds no pixels", "draw it as PNG (rsvg-convert, inkscape)", True)
_LFS = OddFile("a pointer of Git LFS, not the file", "run git lfs pull")
_HTML = OddFile("a web page (HTML), not an image", f"{_FETCH}; a download behind a login saves its page instead")
_JSON = OddFile("JSON text, such as a server's error message", f"read it, then {_FETCH}")
_XML = OddFile("XML text, such as a server's error message", f"read it, then {_FETCH}")
_EPS = OddFile("a PostScript drawing (EPS)", "draw it as PNG; no outside program is started to read it", True)
_MOVIE = OddFile("a video", "take still images from it, and name those", True)
_SOUND = OddFile("a sound", "take the record out, or give it its image")

# What a file of it begins with, the longest first where one begins another.
_STARTS: tuple[tuple[bytes, OddFile], ...] = (
    (b"version https://git-lfs", _LFS),
    (b"%PDF-", OddFile("a PDF document", "draw its page as PNG (pdftoppm -png)", True)),
    (b"%!PS", _EPS),
    (b"\xc5\xd0\xd3\xc6", _EPS),
    (b"8BPS", OddFile("a Photoshop file (PSD)", _CONVERT, True)),
    (b"gimp xcf", OddFile("a GIMP file (XCF)", _CONVERT, True)),
    (b"\xff\x0a", OddFile("a JPEG XL image", _CONVERT, True)),
    (b"\x00\x00\x00\x0cJXL ", OddFile("a JPEG XL image", _CONVERT, True)),
    (b"\xd7\xcd\xc6\x9a", OddFile("a Windows metafile (WMF)", "draw it as PNG", True)),
    (b"\x1f\x8b", OddFile("gzip-compressed", _WITHIN, True)),
    (b"PK\x03\x04", OddFile("a ZIP archive", _WITHIN, True)),
    (b"PK\x05\x06", OddFile("an empty ZIP archive", _FETCH)),
    (b"BZh", OddFile("bzip2-compressed", _WITHIN, True)),
    (b"\xfd7zXZ\x00", OddFile("xz-compressed", _WITHIN, True)),
    (b"\x28\xb5\x2f\xfd", OddFile("zstd-compressed", _WITHIN, True)),
    (b"7z\xbc\xaf\x27\x1c", OddFile("a 7z archive", _WITHIN, True)),
    (b"Rar!", OddFile("a RAR archive", _WITHIN, True)),
    (b"\x1a\x45\xdf\xa3", _MOVIE),
    (b"FLV\x01", _MOVIE),
    (b"\x00\x00\x01\xba", _MOVIE),
    (b"\x00\x00\x01\xb3", _MOVIE),
    (b"ID3", _SOUND),
    (b"OggS", _SOUND),
    (b"fLaC", _SOUND),
    (b"\x89HDF\r\n", OddFile("an HDF5 file", f"{_CONVERT}, one file for each image", True)),
    (b"\x93NUMPY", OddFile("a NumPy array", "save it as PNG, or as TIFF where it holds more than 8 bits", True)),
    (b"PAR1", OddFile("a Parquet file", "name it as the data (path=), not as an image")),
    (b"SQLite format 3", OddFile("an SQLite database", _FETCH)),
    (b"\x80\x04\x95", OddFile("a Python pickle, which is never opened", "save its image as PNG", True)),
    (b"\x5c\x01\x00\x00", OddFile("a NIfTI scan", "write its slices as PNG or TIFF", True)),
    (b"DDS ", OddFile("a texture (DDS)", _CONVERT, True)),
)
# By the brand of an ISO container (bytes 4 to 12: "ftyp" and the brand).
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")

# Containers that are read: what they are called, and how a whole one is told.
_READ: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)


def read_format(head: bytes) -> str | None:
    """The image format that a file begins as, of those that are read; None for another."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp" and head[8:12] in _AVIF_BRANDS:
        return "AVIF"
    return next((name for start, name in _READ if head.startswith(start)), None)


def odd_file(head: bytes) -> OddFile | None:
    """What a file is that begins so and is no image that is read; None where that is not known.

    Args:
        head: its first ``HEAD`` bytes, or all of a shorter one.
    """
    if not head:
        return EMPTY
    if not head.strip(b"\x00"):
        return OddFile("nothing but zero bytes", f"{_FETCH}; a stopped download leaves these")
    if head[128:132] == b"DICM":
        return _DICOM
    if head[4:8] == b"ftyp":
        return _of_brand(head[8:12])
    if head[:4] == b"RIFF":
        return _MOVIE if head[8:12] == b"AVI " else _SOUND if head[8:12] == b"WAVE" else None
    if head[257:262] == b"ustar":
        return OddFile("a tar archive", _WITHIN, True)
    if head[344:348] in (b"n+1\x00", b"ni1\x00"):
        return OddFile("a NIfTI scan", "write its slices as PNG or TIFF", True)
    return next((odd for start, odd in _STARTS if head.startswith(start)), None) or _text(head)


def _of_brand(brand: bytes) -> OddFile | None:
    if brand in _HEIC_BRANDS:
        return _HEIC
    return None if brand in _AVIF_BRANDS else _MOVIE


def _text(head: bytes) -> OddFile | None:
    """What a text is; None for bytes that are no text."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = head.decode("utf-16", "replace")
    else:
        try:
            text = head.decode("utf-8-sig", "strict" if len(head) < HEAD else "ignore")
        except UnicodeDecodeError:
            return None
    if re.search(r"[\x00-\x08\x0e-\x1f]", text):
        return None
    start = text.lstrip().lower()
    if "<svg" in start and start.startswith(("<svg", "<?xml", "<!--", "<!doctype svg")):
        return _SVG
    if start.startswith(("<!doctype html", "<html", "<head", "<body", "<script")) or "<html" in start[:1000]:
        return _HTML
    if start.startswith(("{", "[")):
        return _JSON
    if start.startswith("<?xml"):
        return _XML
    if start.startswith(("http://", "https://", "s3://", "gs://")):
        return OddFile("an address, not the image behind it", "fetch the image")
    if re.fullmatch(r"(\.\./)+[^\n]+", text):
        # As git leaves links on a disk that has none, and copies that take a link for its text.
        return OddFile("the text of a link, not the file behind it", "copy the folder with its links followed (cp -rL)")
    return OddFile("text, no image that Pillow knows", f"{_FETCH}; a server's message is often saved so")


def is_zero_filled(content: bytes) -> bool:
    """Whether the second part of an image is missing, and zero bytes stand in its place: a download that stopped in a
    file laid out beforehand. Decoders take the zeros for picture."""
    kind = read_format(content)
    if kind == "JPEG":
        # No marker occurs inside the compressed data, so a whole picture's end stands behind its last start.
        return content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda")
    if kind == "PNG":
        return b"IEND" not in content
    if kind in ("WebP", "AVIF"):
        return not any(content[-max(512, len(content) // 16) :])
    return False


def is_cut(head: bytes, tail: bytes, size: int) -> bool:
    """Whether a file that begins as an image lacks its end.

    Args:
        tail: its last ``TAIL`` bytes.
        size: all its bytes.
    """
    kind = read_format(head)
    if kind == "JPEG":
        # Some cameras and servers write zeros behind the end.
        return b"\xff\xd9" not in tail and not tail.endswith(b"\x00\x00")
    if kind == "PNG":
        return b"IEND" not in tail
    if kind == "GIF":
        return b";" not in tail
    if kind == "WebP":
        return size < 8 + int.from_bytes(head[4:8], "little")
    if kind == "BMP":
        return size < int.from_bytes(head[2:6], "little")
    return False
