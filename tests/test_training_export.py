"""Predictions are files, one for every photo."""

import pytest

from colorize_jax.training import export


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["JPEGImages/a.jpg", "JPEGImages/b.jpg"], ["a.png", "b.png"]),
        (["x/1.jpg", "y/1.jpg", "y/2.jpg"], ["x/1.png", "y/1.png", "y/2.png"]),
        (["x/1.jpg", "x/1.png"], ["x/1.jpg.png", "x/1.png.png"]),
        (["x/a.jpg", "y/A.jpg"], ["x/a.png", "y/A.png"]),
        (["1.jpg", "1.jpg"], ["1.jpg.0.png", "1.jpg.1.png"]),
        (["../../a.jpg", "/etc/b.v2.jpg"], ["a.png", "b.v2.png"]),
        (["../a/1.jpg", "b/1.jpg"], ["a/1.png", "b/1.png"]),
    ],
)
def test_every_photo_has_a_file_of_its_own(names, files):
    assert export.file_names(names) == files
