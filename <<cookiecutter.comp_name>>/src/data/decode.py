"""One image file of any usual kind to 8-bit pixels at the cached size."""

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

THUMBNAIL = 16  # pixels a side, grey: enough to tell a true near-duplicate from a chance hit of the hash
JPEG, JPEG_END = b"\xff\xd8", b"\xff\xd9"  # how such a file starts and ends
TEXT = 2**28  # bytes of text in a PNG: Pillow refuses a megabyte, which an editor's history can fill
COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
SCALES = (  # what libjpeg leaves out while it decodes, the most first
    (8, cv2.IMREAD_REDUCED_COLOR_8),
    (4, cv2.IMREAD_REDUCED_COLOR_4),
    (2, cv2.IMREAD_REDUCED_COLOR_2),
)
CHANNELS = 10  # at most: more are a stack of slices, which wants another model


@dataclass(frozen=True)
class Decoded:
    """One image file: its pixels at the cached size (S, S, C) uint8, and what is known of the file; the last
    three tell copies of an image, and are empty where nobody asked."""

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
    """Whatever a decoder raises for a file comes out as a `UserError`, which does not name the file."""
    try:
        yield
    except (UserError, ImportError):  # a package that is missing is no fault of the file
        raise
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror or error})") from None
    except Exception as error:  # of OpenCV, Pillow, pydicom and numpy, and no memory for so large an image
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the file cannot be decoded ({why})") from None


@contextmanager
def named(path: Path) -> Iterator[None]:
    """A `UserError` about a file gets the file's name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def decode(path: Path, data: Data, hashes: bool = True) -> Decoded:
    """Read an image of any usual kind as 8-bit RGB at the cached size.

    `hashes` false leaves out what tells copies of an image, which is asked once alone; without a cache
    (`data.storage=files`) a JPEG is then decoded at the smallest scale that is large enough.

    Grey, CMYK, RGBA, 16-bit and EXIF-rotated files come out upright in RGB; alpha is dropped. Raises
    `UserError` for a file that is empty, no image, or ends early (OpenCV would fill the rest with grey and
    say nothing), and for whatever else a decoder cannot do with it. A JPEG with a hole decodes in silence:
    see damage.py; `data.damaged=keep` takes one that ends early, too.
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
    if data.preprocess is not None:  # after the hashes: which images are alike does not hang on it
        pixels = preprocessed(pixels, data)
    return Decoded(resize_image(pixels, data), height, width, mode, brightest, *alike)


def _reduced(content: bytes, data: Data) -> Decoded:
    """A JPEG whose decoder leaves out what the cached size would not show: at a half, a quarter or an eighth,
    never below the size wanted."""
    mode = kind_of(content, data.damaged == "keep")
    with pillow().open(io.BytesIO(content)) as image:
        width, height = image.size[::-1] if image.getexif().get(0x0112, 1) >= 5 else image.size
    _, _, *wanted = content_box(height, width, data)
    least = min(height // wanted[0], width // wanted[1])
    pixels = _pixels(content, mode, next((flag for scale, flag in SCALES if scale <= least), COLOUR))
    return Decoded(resize_image(pixels, data), height, width, mode, float(pixels.max()), "", 0, b"")


def _hashes(content: bytes, pixels: np.ndarray) -> tuple[str, int, bytes]:
    """Of the file's bytes, of its looks, and a thumbnail of THUMBNAIL x THUMBNAIL grey levels."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.shape[2] == 3 else pixels.mean(2)
    grey = cv2.resize(grey.astype(np.uint8), (64, 64), interpolation=cv2.INTER_AREA)
    thumbnail = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return hashlib.sha256(content).hexdigest()[:16], _phash(grey), thumbnail.tobytes()


def preprocessed(pixels: np.ndarray, data: Data) -> np.ndarray:
    """What `data.preprocess`, a function of src/data/own.py, makes of an image (H, W, C) uint8.

    Raises `UserError` with the line where it fails, and for anything else than such an image.
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
    """Values deeper than 8 bits as float32 levels: in a line up to white, which is 255, or with
    `data.squeeze` by tanh(x / squeeze), which no value leaves. From 0 to 1 for numbers without a sign; others
    from -1 to 1, so that their 0 is mid-grey in every file."""
    values = pixels.astype(np.float32)
    if data.squeeze is None:
        return values * (255.0 / (data.max_value or _white(pixels.dtype)))
    values = np.tanh(values / np.float32(data.squeeze))
    return values * 255.0 if pixels.dtype.kind == "u" else (values + 1) * 127.5


def _white(dtype: np.dtype) -> float:
    """What is white in a depth whose range says so; raises `UserError` for floats and signed numbers."""
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
    """(H, W, C) of a .npy file that holds (H, W), (H, W, C) or (C, H, W); nothing is unpickled."""
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
    """(H, W, 1) of a DICOM file, bright where the body is: stretched over all bits, or with `data.squeeze` in
    the file's own units, such as Hounsfield's, float32."""
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
    """(H, W, 3) RGB, upright, in the file's own depth, or as OpenCV's flags say."""
    pixels = imdecode(content, flags)
    if (
        mode.startswith("TIFF RGBA") and pixels.dtype == np.uint8
    ):  # OpenCV darkens by alpha here, and here alone
        from PIL import ImageOps

        with pillow().open(io.BytesIO(content)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # IMREAD_COLOR_RGB scrambles 16-bit TIFF in OpenCV 5.0.0


def imdecode(content: bytes, flags: int) -> np.ndarray:
    """OpenCV's own, which gives None for some files and raises for others, with a `UserError` for both."""
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        if pixels is None and content[:2] == JPEG:  # it ends early: with an end it decodes as far as it goes
            pixels = cv2.imdecode(np.frombuffer(content + JPEG_END, np.uint8), flags)
    except cv2.error as error:  # such as one of more than 2**30 pixels
        raise UserError(f"the file cannot be decoded ({error.err})") from None
    if pixels is None:
        raise UserError("the file cannot be decoded")
    return pixels


def pillow() -> Any:
    """`PIL.Image` without its limits against attacks: a slide of 400 million pixels, or a long description in
    a PNG, is data here."""
    from PIL import Image, PngImagePlugin

    Image.MAX_IMAGE_PIXELS = None
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = TEXT
    return Image


def kind_of(content: bytes, cut_off: bool = False) -> str:
    """The kind of image as a short text, such as `JPEG RGB` or `JPEG RGB, turned by EXIF`; raises for a
    cut-off file, unless a JPEG may be `cut_off`."""
    from PIL import UnidentifiedImageError

    try:
        with pillow().open(io.BytesIO(content)) as image:
            turned = ", turned by EXIF" if image.getexif().get(0x0112, 1) != 1 else ""
            kind = f"{image.format} {image.mode}{turned}"
            jpeg = image.format in ("JPEG", "MPO")
            whole = jpeg and (cut_off or JPEG_END in content[-64:])
            if (
                not whole
            ):  # decode in full (a PNG was already, to see its EXIF): Pillow says when data is missing
                image.load()
            return kind
    except UnidentifiedImageError:
        raise UserError(
            "the file is no image that can be read (is it a web page or a Git LFS pointer?)"
        ) from None
    except Exception as error:  # Pillow's readers raise errors of a dozen kinds for a damaged file
        raise UserError(f"the file is cut off or damaged ({' '.join(str(error).split())})") from None


def resize_image(pixels: np.ndarray, data: Data) -> np.ndarray:
    """(H, W, C) to (S, S, C), stretched, or kept in shape with black on both sides."""
    side = data.cached_size
    top, left, height, width = content_box(*pixels.shape[:2], data)
    resized = _resize(pixels, height, width)
    if (height, width) == (side, side):
        return resized
    framed = np.zeros((side, side, pixels.shape[2]), np.uint8)
    framed[top : top + height, left : left + width] = resized
    return framed


def content_box(height: int, width: int, data: Data) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part of the S x S square that an image of this size covers."""
    side = data.cached_size
    if data.fit == "stretch":
        return 0, 0, side, side
    scale = side / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    return (side - height) // 2, (side - width) // 2, height, width


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area averaging on the way down (it does not alias), cubic on the way up."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = height <= pixels.shape[0] and width <= pixels.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    # OpenCV takes four channels at a time, and drops the axis of a single one
    parts = [pixels[:, :, c : c + 4] for c in range(0, pixels.shape[2], 4)]
    resized = [cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=way) for part in parts]
    return np.concatenate([part.reshape(height, width, -1) for part in resized], axis=2)


def _phash(grey: np.ndarray) -> int:
    """64-bit perceptual hash of a grey image, to the bit that of ImageHash, which Kaggle's image lacks: the
    signs of the lowest 8 x 8 frequencies about their median."""
    from PIL import Image
    from scipy.fft import dctn

    small = Image.fromarray(grey).resize((32, 32), Image.Resampling.LANCZOS)
    low = dctn(np.asarray(small, dtype=np.float64))[:8, :8]
    return int(np.packbits(low > np.median(low)).view(">u8")[0])
