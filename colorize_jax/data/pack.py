"""Packs the photos of any source into ArrayRecord shards: few large files that are fast to read."""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import zlib

import cv2
import numpy as np
from PIL import Image
import simplejpeg
from tqdm import tqdm

from colorize_jax import json_files
from colorize_jax.data import ahead, decode, records, transforms
from colorize_jax.data.names import Names
from colorize_jax.data.sources import Photos
from colorize_jax.errors import DataError
from colorize_jax.files import atomic_write_text


@dataclasses.dataclass(frozen=True)
class Packing:
    """Options of packing.

    Attributes:
        shortest: larger photos are re-encoded so that their shortest side has this many pixels; 0
            keeps every photo byte for byte.
        quality: the quality of the re-encoded JPEGs.
        shard_photos: the number of photos in a shard.
    """

    shortest: int = 0
    quality: int = 95
    shard_photos: int = 8192


def pack(photos: Photos, out: str, packing: Packing, threads: int) -> tuple[int, int]:
    """Packs photos into `out`; resumes where an earlier call was stopped.

    Every shard is written under a temporary name, read back, compared, and only then renamed.
    Photos that cannot be read are left out and named in `out/bad_records.jsonl`.

    Returns:
        The numbers of photos packed and left out, over all calls.

    Raises:
        DataError: `out` holds shards of another source or of other options, or a shard reads
            differently from what was written.
    """
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    _check_same(folder / "pack.json", photos, packing)
    count = len(photos)
    shards = -(-count // packing.shard_photos)
    bar = tqdm(total=count, unit="photo", dynamic_ncols=True)
    with ahead.threads(threads) as pool, bar:
        for number in range(shards):
            first = number * packing.shard_photos
            last = min(first + packing.shard_photos, count)
            shard = folder / f"photos-{number:05}-of-{shards:05}.array_record"
            if not (shard.exists() and os.path.exists(records.names_file(str(shard)))):
                encode = functools.partial(_encode, photos, packing)
                encoded = ahead.in_order(pool, encode, range(first, last), 4 * threads)
                _write(str(shard), _progress(encoded, bar))
            else:
                bar.update(last - first)
    bad = [row for path in folder.glob("*.array_record.bad") for row in _left_out(path)]
    rows = "".join(json.dumps(row) + "\n" for row in sorted(bad, key=lambda row: row["name"]))
    atomic_write_text(folder / "bad_records.jsonl", rows)
    return count - len(bad), len(bad)


def _progress(encoded, bar):
    for item in encoded:
        bar.update()
        yield item


def _check_same(path: pathlib.Path, photos: Photos, packing: Packing) -> None:
    described = {"photos": len(photos), "names": photos.digest()} | dataclasses.asdict(packing)
    if not path.exists():
        atomic_write_text(path, json.dumps(described, indent=2) + "\n")
        return
    before = json_files.read(path, {str: object}, DataError, "give another folder")
    changed = [name for name in described if before.get(name) != described[name]]
    if changed:
        raise DataError(
            f"{path.parent} holds the shards of another source or of other options (different: "
            f"{', '.join(changed)}): give another folder, or empty this one"
        )


def _left_out(path: pathlib.Path) -> Iterator[dict]:
    """The photos that were left out of a shard."""
    good, bad = json_files.rows(path, {"name": str, "reason": str})
    for _, problem in bad:
        raise DataError(
            f"{path} is damaged ({problem}): delete it and the shard, and pack once more"
        )
    yield from (row for _, row in good)


def _encode(photos: Photos, packing: Packing, index: int) -> tuple[bytes, bytes, str]:
    """(name, encoded photo, "") or (name, b"", why it cannot be read)."""
    name = photos.name(index).encode("utf-8", "surrogateescape")
    try:
        data = photos[index].image
        photo = decode.open_photo(data)
        small = not packing.shortest or min(photo.height, photo.width) <= packing.shortest
        if small and not isinstance(data, np.ndarray):
            photo.pixels()  # It raises for a damaged photo: only whole ones are packed.
            return name, data, ""
        if small:
            file = io.BytesIO()
            Image.fromarray(data).save(file, "PNG")
            return name, file.getvalue(), ""
        height, width = transforms.scaled_size(photo.height, photo.width, packing.shortest)
        pixels = photo.pixels(height, width)
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        return name, simplejpeg.encode_jpeg(pixels, packing.quality, "RGB", "420"), ""
    # The libraries have their own limits, such as 65,500 pixels along a side of a JPEG.
    except Exception as error:
        return name, b"", " ".join(str(error).split()) or type(error).__name__


def _write(shard: str, encoded: Iterator[tuple[bytes, bytes, str]]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    draft = f"{shard}.tmp"
    # One record a group lets every photo be read alone. JPEGs do not compress any further.
    writer = ArrayRecordWriter(draft, "group_size:1,uncompressed")
    names, sums, bad = [], [], []
    try:
        for name, photo, reason in encoded:
            if reason:
                bad.append({"name": os.fsdecode(name), "reason": reason})
                continue
            record = records.encode_record(name, photo)
            writer.write(record)
            names.append(name)
            sums.append(zlib.crc32(record))
        writer.close()
        _verify(draft, sums)
    except BaseException:
        with contextlib.suppress(Exception):  # The first error is the one to report.
            writer.close()
        pathlib.Path(draft).unlink(missing_ok=True)
        raise
    records.save_names(shard, Names.of(names))
    # A call that was stopped may have left one.
    pathlib.Path(f"{shard}.bad").unlink(missing_ok=True)
    if bad:
        atomic_write_text(
            pathlib.Path(f"{shard}.bad"), "".join(json.dumps(row) + "\n" for row in bad)
        )
    os.replace(draft, shard)


def _verify(path: str, sums: list[int]) -> None:
    with contextlib.closing(records.open_reader(path)) as reader:
        if reader.num_records() != len(sums):
            raise DataError(f"{path} holds {reader.num_records()} of {len(sums)} photos")
        step = 256
        for start in range(0, len(sums), step):
            stop = min(start + step, len(sums))
            for i, record in enumerate(reader.read(start, stop), start):
                if zlib.crc32(record) != sums[i]:
                    raise DataError(f"{path}: photo {i} reads differently from what was written")
