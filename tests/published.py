"""Small files in the layouts of CIFAR-10, SVHN and Oxford Flowers."""

import io
import pickle
import struct

import numpy as np
from PIL import Image
import scipy.io


def text(data):
    """A text of Python 2: `pickle` writes none of them any more."""
    return b"T" + struct.pack("<I", len(data)) + data


def cifar_batch(pixels, labels):
    """A batch as CIFAR-10 is published: a pickle of Python 2.

    Args:
        pixels: uint8 [photos, 32, 32, 3].
        labels: of the photos.
    """
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).tobytes()
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87Rq\x01"
    dtype += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b")
    array += b"\x87R(K\x01M" + struct.pack("<H", len(pixels)) + b"M\x00\x0c\x86" + dtype
    array += b"\x89" + text(planes) + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    named = b"](" + b"".join(text(b"photo_%d.png" % i) for i in range(len(labels))) + b"e"
    items = text(b"data") + array + text(b"labels") + listed
    items += text(b"batch_label") + text(b"training batch 1 of 5") + text(b"filenames") + named
    return b"\x80\x02}q\x00(" + items + b"u."


def photos(rng, labels, classes=10):
    """uint8 [photos, 32, 32, 3], whose brightness tells the class."""
    bright = (np.asarray(labels) * 200 // classes)[:, None, None, None]
    return (bright + rng.integers(0, 40, (len(labels), 32, 32, 3))).astype(np.uint8)


def write_cifar(folder, rng, per_batch=10):
    """cifar-10-batches-py; returns {file: (pixels, labels)}."""
    folder.mkdir(parents=True)
    written = {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        labels = rng.permutation(per_batch) % 10
        written[name] = photos(rng, labels), labels
        (folder / name).write_bytes(cifar_batch(*written[name]))
    (folder / "batches.meta").write_bytes(pickle.dumps({"num_cases_per_batch": per_batch}))
    (folder / "readme.html").write_text("<p>")
    return written


def write_svhn(folder, rng, count=20):
    """train_32x32.mat and test_32x32.mat; returns {split: (pixels, digits)}."""
    folder.mkdir(parents=True)
    written = {}
    for split in ("train", "test"):
        digits = rng.permutation(count) % 10
        pixels = photos(rng, digits)
        y = np.where(digits == 0, 10, digits)[:, None].astype(np.uint8)
        content = {"X": np.asfortranarray(pixels.transpose(1, 2, 3, 0)), "y": y}
        scipy.io.savemat(folder / f"{split}_32x32.mat", content, do_compression=True)
        written[split] = pixels, digits
    return written


def write_flowers(folder, rng, per_class=4, classes=3):
    """imagelabels.mat, setid.mat and jpg/; returns the labels, from 1 on."""
    (folder / "jpg").mkdir(parents=True)
    labels = np.arange(per_class * classes) // per_class + 1
    for number, label in enumerate(labels, 1):
        pixels = photos(rng, [label])[0]
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        (folder / f"jpg/image_{number:05}.jpg").write_bytes(file.getvalue())
    numbers = np.arange(1, len(labels) + 1)
    place = (numbers - 1) % per_class
    splits = {"trnid": numbers[place == 0], "valid": numbers[place == 1]}
    splits["tstid"] = numbers[place > 1]
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    named = {name: some[None].astype(np.float64) for name, some in splits.items()}
    scipy.io.savemat(folder / "setid.mat", named)
    return labels
