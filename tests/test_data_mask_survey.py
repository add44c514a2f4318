"""The warnings about masks before training."""

import labelled
import numpy as np
from PIL import Image
import pytest
import tiny

from colorize_jax.data import mask_survey, splits
from colorize_jax.errors import DataError


@pytest.fixture
def kit(tmp_path, rng):
    labelled.write_devkit(tmp_path, rng, photos=8)
    return tmp_path


def _config(kit, classes=3, **settings):
    return tiny.segmentation(data__source=str(kit), task__classes=classes, **settings)


def _said(kit, classes=3, **settings):
    config = _config(kit, classes, **settings)
    return splits.look_at_masks(splits.open_splits(config), config)


def _change(kit, function, names="*"):
    """Replaces every mask, uint8 [height, width], by the function's result."""
    for path in sorted((kit / "SegmentationClass").glob(f"{names}.png")):
        Image.fromarray(function(np.asarray(Image.open(path)))).save(path)


def test_ordinary_masks_and_photos_without_masks_give_no_warning(kit):
    assert _said(kit) == []
    config = tiny.config()
    assert splits.look_at_masks(splits.open_splits(config), config) == []


def test_two_classes_drawn_as_0_and_255(kit):
    _change(kit, lambda mask: np.where(mask > 0, 255, 0).astype(np.uint8))
    said = _said(kit, 2)
    assert len(said) == 6
    absent, alone, void = said[:3]
    assert absent == (
        "training masks (all 8 looked at): class 1, 'class 1', is in none of them and cannot be "
        "learned"
    )
    assert "no class but 'class 0': nothing can be learned" in alone
    assert "pixels are void (255)" in void and "store it as a number below 2" in void
    assert said[3].startswith("evaluation masks (all 4 looked at): class 1") and "IoU" in said[3]
    assert "mean IoU has no value" in said[4]


def test_classes_that_do_not_occur_are_named_but_not_too_many(kit):
    (said, scored) = _said(kit, 21)
    assert "18 of the 21 classes are in none of them ('bird', 'boat', 'bottle'" in said
    assert said.endswith("'car', ...): each cannot be learned") and "bicycle" not in said
    assert "counts as 0 where it is predicted" in scored
    _change(kit, lambda mask: np.where(mask == 2, 0, mask).astype(np.uint8), "2008*")
    assert [line.split(" (")[0] for line in _said(kit)] == ["evaluation masks"]


def test_much_void_gives_a_warning(kit):
    def hide(mask):
        mask = mask.copy()
        mask[:20] = 255
        return mask

    _change(kit, hide, "2007*")
    (said,) = _said(kit)
    assert said.startswith("training masks") and "void (255), which is neither learned" in said


def test_interpolated_masks_give_a_warning(kit):
    def blur(mask):
        image = Image.fromarray(np.where(mask == 2, 15, np.where(mask == 1, 9, 0)).astype(np.uint8))
        small = image.resize((40, 30), Image.Resampling.BILINEAR)
        return np.asarray(small.resize((64, 48), Image.Resampling.BILINEAR))

    _change(kit, blur)
    said = [line for line in _said(kit, 21) if "third class" in line]
    assert len(said) == 2 and "by the nearest neighbor" in said[0]


def test_masks_that_cannot_be_used_are_counted_with_a_reason(kit):
    masks = sorted((kit / "SegmentationClass").glob("2007*.png"))
    masks[3].write_bytes(masks[3].read_bytes()[:60])
    masks[5].unlink()
    # A mask that is deleted after the split was opened cannot be used either.
    masks[5].write_bytes(b"")
    (said,) = _said(kit)
    assert "2 cannot be used, such as that of JPEGImages/2007_0000" in said
    assert "its mask is damaged" in said


def test_a_run_without_a_usable_mask_ends_before_it_begins(kit):
    _change(kit, lambda mask: np.stack([mask] * 3, -1))
    with pytest.raises(DataError, match=r"no training mask can be used \(all 8 .*its mask is RGB"):
        _said(kit)


def test_only_a_sample_is_looked_at_unless_a_class_was_not_seen(kit, monkeypatch):
    monkeypatch.setattr(mask_survey, "SAMPLE", 3)
    training = splits.open_splits(_config(kit)).training
    assert mask_survey.survey(training).seen == 3
    training = splits.open_splits(_config(kit, 21)).training
    assert mask_survey.survey(training).seen == 8
    monkeypatch.setattr(mask_survey, "SECONDS", 0.0)
    found = mask_survey.survey(training)
    assert found.seen == 3
    names = [str(i) for i in range(21)]
    assert "(3 of 8 looked at)" in mask_survey.remarks(found, names, "training")[0]


def test_of_an_evaluation_of_some_photos_only_these_masks_count(kit):
    _change(kit, lambda mask: np.where(mask > 0, 255, 0).astype(np.uint8), "2008_000000")
    assert not any("in none of them" in line for line in _said(kit))
    said = _said(kit, eval__photos=1)
    assert said and all(line.startswith("evaluation masks (all 1 ") for line in said)


def test_padding_that_would_be_learned_as_a_class_gives_a_warning(kit):
    (kit / "classes.txt").write_text("sky\nbuilding\npole\n")
    assert splits.open_splits(_config(kit)).warnings == ()
    (warning,) = splits.open_splits(_config(kit, data__pad_label="background")).warnings
    assert "class 0, which is 'sky' here" in warning
