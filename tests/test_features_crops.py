"""The crops that networks are shown."""

import numpy as np

from colorize_jax.features import crops


def test_a_small_photo_is_left_out_where_a_least_size_is_asked_for(rng):
    pixels = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    photos = [type("Record", (), {"image": pixels})]
    assert crops.central(photos, 0, 40, 32, least=40)[0] is not None
    seen, reason = crops.central(photos, 0, 40, 32, least=41)
    assert seen is None and reason == "56 x 40 pixels; 41 are needed"
