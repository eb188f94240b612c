"""Decode an image file of any common format to 8-bit pixels at the cached size."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any

import cv2
import numpy as np

from src.config import Data, UserError
from src.data import own

THUMBNAIL = 16  # pixels per side, grey: enough to tell a near-duplicate from a chance match of the hash
JPEG, JPEG_END = b"\xff\xd8", b"\xff\xd9"  # first and last bytes of a JPEG file
TEXT = 2**28  # maximum bytes of text in a PNG: Pillow allows a megabyte, which an editor's history can exceed
COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
SCALES = (  # reduced scales of libjpeg, the smallest first
    (8, cv2.IMREAD_REDUCED_COLOR_8),
    (4, cv2.IMREAD_REDUCED_COLOR_4),
    (2, cv2.IMREAD_REDUCED_COLOR_2),
)
CHANNELS = 10  # maximum: more channels are a stack of slices, which needs a different model


@dataclass(frozen=True)
class Decoded:
    """A decoded image: pixels at the cached size (S, S, C) uint8, and metadata of the file. The last three
    fields identify duplicates and are empty without `hashes`."""

    pixels: np.ndarray
    height: int
    width: int
    mode: str
    brightest: float
    content: str
    phash: int
    thumbnail: bytes


@contextmanager
def readable() -> Iterator[None]:
    """Context manager that turns any decoder exception into a `UserError`, which does not name the file."""
    try:
        yield
    except (UserError, ImportError):  # a missing package is not a fault of the file
        raise
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror or error})") from None
    # from OpenCV, Pillow, pydicom or numpy, or out of memory for a very large image
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the file cannot be decoded ({why})") from None


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Context manager that prefixes a `UserError` with the file's name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def decode(path: Path, data: Data, hashes: bool = True) -> Decoded:
    """Decode an image of any common format to 8-bit RGB at the cached size.

    Without `hashes` the duplicate hashes are not computed; with `data.storage=files` a JPEG is then decoded
    at the smallest sufficient scale.

    Grey, CMYK, RGBA, 16-bit and EXIF-rotated files become upright RGB; alpha is dropped. Raises `UserError`
    for a file that is empty, not an image, or truncated (OpenCV would fill the rest with grey without an
    error), and for any other decoder error. A JPEG with a hole decodes without an error: see damage.py. With
    `data.damaged=keep` a truncated JPEG is accepted.
    """
    with readable():
        return _decode(path, data, hashes)


def _decode(path: Path, data: Data, hashes: bool) -> Decoded:
    content = path.read_bytes()
    if not content:
        raise UserError("the file is empty (0 bytes)")
    if not hashes and data.storage == "files" and data.preprocess is None and content[:2] == JPEG:
        return _reduced(content, data)
    pixels, mode = READERS.get(path.suffix.lower(), _read_image)(content, data)
    brightest = float(pixels.max())
    height, width = pixels.shape[:2]
    if pixels.dtype != np.uint8:
        pixels = np.clip(_levels(pixels, data) + 0.5, 0, 255).astype(np.uint8)
        mode = f"{mode}, 16 bits" if "16" not in mode else mode
    alike = _hashes(content, pixels) if hashes else ("", 0, b"")
    # after the hashes, so that preprocessing does not change which images are duplicates
    if data.preprocess is not None:
        pixels = preprocessed(pixels, data)
    return Decoded(resize_image(pixels, data), height, width, mode, brightest, *alike)


def _reduced(content: bytes, data: Data) -> Decoded:
    """Decode a JPEG at a half, a quarter or an eighth of its size, never below the cached size."""
    mode = kind_of(content, data.damaged == "keep")
    with pillow().open(io.BytesIO(content)) as image:
        width, height = image.size[::-1] if image.getexif().get(0x0112, 1) >= 5 else image.size
    _, _, *wanted = content_box(height, width, data)
    least = min(height // wanted[0], width // wanted[1])
    pixels = _pixels(content, mode, next((flag for scale, flag in SCALES if scale <= least), COLOUR))
    return Decoded(resize_image(pixels, data), height, width, mode, float(pixels.max()), "", 0, b"")


def _hashes(content: bytes, pixels: np.ndarray) -> tuple[str, int, bytes]:
    """Hash of the file's bytes, perceptual hash (pHash), and a thumbnail of THUMBNAIL x THUMBNAIL grey
    levels."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.shape[2] == 3 else pixels.mean(2)
    grey = cv2.resize(grey.astype(np.uint8), (64, 64), interpolation=cv2.INTER_AREA)
    thumbnail = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return hashlib.sha256(content).hexdigest()[:16], _phash(grey), thumbnail.tobytes()


def preprocessed(pixels: np.ndarray, data: Data) -> np.ndarray:
    """Apply `data.preprocess`, a function of src/data/own.py, to an image (H, W, C) uint8.

    Raises `UserError` with the line at which the function fails, and if its result is not such an image.
    """
    name = data.preprocess
    try:
        made = getattr(own, name)(pixels.copy())
    except Exception as error:
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == own.__file__]
        where = f"src/data/own.py, line {lines[-1] if lines else '?'}"
        raise UserError(f"data.preprocess={name} fails ({where}: {type(error).__name__}: {error})") from error
    if not isinstance(made, np.ndarray) or made.dtype != np.uint8 or made.ndim != 3 or 0 in made.shape:
        found = f"{made.dtype} {made.shape}" if isinstance(made, np.ndarray) else type(made).__name__
        raise UserError(
            f"data.preprocess={name} gave {found}; it should give uint8 (height, width, channels)"
        )
    if (data.train_masks or data.rle) and made.shape[:2] != pixels.shape[:2]:
        raise UserError(
            f"data.preprocess={name} made {pixels.shape[:2]} into {made.shape[:2]}, and the mask would no "
            f"longer lie on the image; keep the size"
        )
    return made


def _levels(pixels: np.ndarray, data: Data) -> np.ndarray:
    """Convert values deeper than 8 bits to float32 levels (0 to 255): linear up to white, or with
    `data.squeeze` a tanh range scaling, tanh(x / squeeze). Unsigned values use tanh from 0 to 1; others from
    -1 to 1, so that 0 is mid-grey in every file."""
    values = pixels.astype(np.float32)
    if data.squeeze is None:
        return values * (255.0 / (data.max_value or _white(pixels.dtype)))
    values = np.tanh(values / np.float32(data.squeeze))
    return values * 255.0 if pixels.dtype.kind == "u" else (values + 1) * 127.5


def _white(dtype: np.dtype) -> float:
    """The value of white for an integer depth. Raises `UserError` for floats and signed numbers."""
    if dtype == np.uint16:
        return 65535.0
    raise UserError(
        f"its values are {dtype}, whose white nobody knows; set data.max_value, or data.squeeze where there "
        f"is none"
    )


def _read_image(content: bytes, data: Data) -> tuple[np.ndarray, str]:
    """(H, W, 3) RGB in the file's own depth, and its kind."""
    mode = kind_of(content, data.damaged == "keep")
    return _pixels(content, mode), mode


def _read_array(content: bytes, data: Data) -> tuple[np.ndarray, str]:
    """(H, W, C) from a .npy file with (H, W), (H, W, C) or (C, H, W); pickles are not loaded."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"the file is no .npy array of numbers ({error})") from None
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"its array has shape {array.shape}; an image is (height, width, channels)")
    if array.shape[0] <= CHANNELS < array.shape[2]:
        array = array.transpose(1, 2, 0)  # (C, H, W) to (H, W, C)
    if array.shape[2] > CHANNELS:
        raise UserError(f"its array has shape {array.shape}; an image has {CHANNELS} channels at most")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
        raise UserError("its array holds values that are no finite numbers")
    return np.ascontiguousarray(array), f"array of {array.shape[2]} channel(s), {array.dtype}"


def _read_dicom(content: bytes, data: Data) -> tuple[np.ndarray, str]:
    """(H, W, 1) from a DICOM file, with MONOCHROME1 inverted: stretched over 16 bits, or with `data.squeeze`
    float32 in the file's own units, such as Hounsfield units."""
    try:
        import pydicom
    except ImportError:
        raise UserError("DICOM files need pydicom: pip install pydicom") from None
    file = pydicom.dcmread(io.BytesIO(content))
    pixels = file.pixel_array.astype(np.float64)
    if pixels.ndim != 2:
        raise UserError(f"its pixels have shape {pixels.shape}; one grey slice a file can be read")
    mode = f"DICOM {file.PhotometricInterpretation}"
    white_is_low = file.PhotometricInterpretation == "MONOCHROME1"
    if data.squeeze is not None:
        if white_is_low:
            signed = getattr(file, "PixelRepresentation", 0)
            pixels = (0 if signed else 2**file.BitsStored) - 1 - pixels
        slope, intercept = (getattr(file, f"Rescale{name}", None) for name in ("Slope", "Intercept"))
        units = pixels * float(slope or 1) + float(intercept or 0)
        return units.astype(np.float32)[:, :, None], mode
    low, high = pixels.min(), pixels.max()
    pixels = (pixels - low) / max(1.0, high - low) * 65535
    if white_is_low:
        pixels = 65535 - pixels
    return pixels.astype(np.uint16)[:, :, None], mode


READERS = {".npy": _read_array, ".dcm": _read_dicom, ".dicom": _read_dicom}


def _pixels(content: bytes, mode: str, flags: int = COLOUR) -> np.ndarray:
    """(H, W, 3) RGB, upright, in the file's own depth unless `flags` say otherwise."""
    pixels = imdecode(content, flags)
    if mode.startswith("TIFF RGBA") and pixels.dtype == np.uint8:  # only here OpenCV multiplies by alpha
        from PIL import ImageOps

        with pillow().open(io.BytesIO(content)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # IMREAD_COLOR_RGB scrambles 16-bit TIFF in OpenCV 5.0.0


def imdecode(content: bytes, flags: int) -> np.ndarray:
    """`cv2.imdecode` with a `UserError` for every failure; OpenCV returns None for some files and raises for
    others."""
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        # truncated: with an end marker it decodes as far as possible
        if pixels is None and content[:2] == JPEG:
            pixels = cv2.imdecode(np.frombuffer(content + JPEG_END, np.uint8), flags)
    except cv2.error as error:  # such as an image of more than 2**30 pixels
        raise UserError(f"the file cannot be decoded ({error.err})") from None
    if pixels is None:
        raise UserError("the file cannot be decoded")
    return pixels


def pillow() -> Any:
    """`PIL.Image` without its limits against decompression bombs: a slide of 400 million pixels, or a long
    description in a PNG, is valid data here."""
    from PIL import Image, PngImagePlugin

    Image.MAX_IMAGE_PIXELS = None
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = TEXT
    return Image


def kind_of(content: bytes, cut_off: bool = False) -> str:
    """The kind of image as a short text, such as `JPEG RGB` or `JPEG RGB, turned by EXIF`. Raises `UserError`
    for a truncated file, unless `cut_off` allows a truncated JPEG."""
    from PIL import UnidentifiedImageError

    try:
        with pillow().open(io.BytesIO(content)) as image:
            turned = ", turned by EXIF" if image.getexif().get(0x0112, 1) != 1 else ""
            kind = f"{image.format} {image.mode}{turned}"
            jpeg = image.format in ("JPEG", "MPO")
            whole = jpeg and (cut_off or JPEG_END in content[-64:])
            if (
                not whole
            ):  # decode in full (a PNG was decoded already for its EXIF): Pillow reports missing data
                image.load()
            return kind
    except UnidentifiedImageError:
        raise UserError(
            "the file is no image that can be read (is it a web page or a Git LFS pointer?)"
        ) from None
    except Exception as error:  # Pillow raises many kinds of errors for a damaged file
        raise UserError(f"the file is cut off or damaged ({' '.join(str(error).split())})") from None


def resize_image(pixels: np.ndarray, data: Data) -> np.ndarray:
    """Resize (H, W, C) to (S, S, C): stretched, or with the aspect ratio kept and black padding."""
    side = data.cached_size
    top, left, height, width = content_box(*pixels.shape[:2], data)
    resized = _resize(pixels, height, width)
    if (height, width) == (side, side):
        return resized
    framed = np.zeros((side, side, pixels.shape[2]), np.uint8)
    framed[top : top + height, left : left + width] = resized
    return framed


def content_box(height: int, width: int, data: Data) -> tuple[int, int, int, int]:
    """(top, left, height, width): the part of the S x S square that an image of this size covers."""
    side = data.cached_size
    if data.fit == "stretch":
        return 0, 0, side, side
    scale = side / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    return (side - height) // 2, (side - width) // 2, height, width


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize with area averaging when shrinking (no aliasing), otherwise cubic."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = height <= pixels.shape[0] and width <= pixels.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    # cv2.resize takes four channels at a time, and drops the axis of a single one
    parts = [pixels[:, :, c : c + 4] for c in range(0, pixels.shape[2], 4)]
    resized = [cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=way) for part in parts]
    return np.concatenate([part.reshape(height, width, -1) for part in resized], axis=2)


def _phash(grey: np.ndarray) -> int:
    """Perceptual hash (pHash, 64 bits) of a grey image, identical to that of ImageHash, which Kaggle's image
    lacks: the lowest 8 x 8 DCT frequencies compared with their median."""
    from PIL import Image
    from scipy.fft import dctn

    small = Image.fromarray(grey).resize((32, 32), Image.Resampling.LANCZOS)
    low = dctn(np.asarray(small, dtype=np.float64))[:8, :8]
    return int(np.packbits(low > np.median(low)).view(">u8")[0])
