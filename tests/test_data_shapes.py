"""The devkit of shapes is valid, and its photos agree with its masks."""

import numpy as np

from colorize_jax.data import masks, shapes, voc
from colorize_jax.data.decode import decode


def _open(folder, split):
    devkit = voc.open_devkit(str(folder))
    assert voc.class_names(devkit, 4) == shapes.CLASSES
    found = voc.open_masked(devkit, split, sbd="", classes=4)
    records = [found[i] for i in range(len(found))]
    return [decode(r.image) for r in records], [masks.decode_mask(r.mask, 4) for r in records]


def test_it_is_a_devkit_whose_masks_lie_on_the_shapes(tmp_path):
    folder = shapes.write_devkit(tmp_path / "devkit", train=6, val=3, side=64)
    for split, count in (("train", 6), ("val", 3)):
        photos, found = _open(folder, split)
        assert len(photos) == count
        for photo, mask in zip(photos, found, strict=True):
            assert photo.shape == (64, 64, 3) and mask.shape == (64, 64)
            classes = set(np.unique(mask)) - {0, masks.VOID}
            assert 1 <= len(classes) <= 2 and (mask == masks.VOID).any() and (mask == 0).any()
            for label in classes:
                color = np.median(photo[mask == label], 0)
                np.testing.assert_allclose(color, shapes.COLORS[label], atol=15)
        assert set(np.unique(found)) == {0, 1, 2, 3, masks.VOID}


def test_it_depends_on_the_seed_alone(tmp_path):
    first, same, other = (
        _open(shapes.write_devkit(tmp_path / f"{i}", train=3, val=1, side=48, seed=seed), "train")
        for i, seed in enumerate((0, 0, 1))
    )
    for a, b in zip(first, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[1], other[1])
