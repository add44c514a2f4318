"""Devkits of VOC 2012 and 2007 with SBD's masks: what is read, and what is refused."""

import os
import pickle
import unicodedata

import labelled
import numpy as np
import pytest
import scipy.io

from colorize_jax.data import masks, voc
from colorize_jax.errors import ConfigError, DataError


@pytest.fixture
def kit(tmp_path, rng):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    labelled.write_devkit(root, rng)
    return root


def _open(path, split="train", sbd="", classes=21):
    return voc.open_masked(voc.open_devkit(str(path)), split, sbd=str(sbd), classes=classes)


def _names(photos):
    return [photos.name(i) for i in range(len(photos))]


def _ids(photos):
    return [name.removeprefix("JPEGImages/").removesuffix(".jpg") for name in _names(photos)]


def _write_sbd(root, devkit, ids, train, val):
    """SBD's release: cls/<id>.mat, img/<id>.jpg and two lists, of these ids."""
    (root / "cls").mkdir(parents=True)
    (root / "img").mkdir()
    photo = next((devkit / "JPEGImages").iterdir()).read_bytes()
    for number, name in enumerate(ids):
        mask = np.full((48, 64), number % 20 + 1, np.uint8)
        scipy.io.savemat(root / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": mask}})
        (root / "img" / f"{name}.jpg").write_bytes(photo)
    for split, names in (("train", train), ("val", val)):
        (root / f"{split}.txt").write_text("\n".join(names))
    return root


def _split_of(kit, name, lines):
    (kit / "ImageSets/Segmentation" / f"{name}.txt").write_text("\n".join(lines))


@pytest.mark.parametrize("kind", ["devkit", "year", "above", "zip", "zip of a year", "year in zip"])
def test_every_way_to_name_a_devkit_gives_the_same(kit, tmp_path, kind):
    path = {
        "devkit": lambda: kit.parent,
        "year": lambda: kit,
        "above": lambda: kit.parent.parent,
        "zip": lambda: labelled.zipped(kit.parent.parent, tmp_path / "../a.zip"),
        "zip of a year": lambda: labelled.zipped(kit, tmp_path / "b.zip"),
        "year in zip": lambda: (
            f"{labelled.zipped(kit.parent.parent, tmp_path / '../c.zip')}/VOCdevkit/VOC2012"
        ),
    }[kind]()
    photos = pickle.loads(pickle.dumps(_open(path)))
    ids = [f"2007_{i:06}" for i in range(8)]
    assert _ids(photos) == ids
    for i, name in enumerate(ids):
        record = photos[i]
        assert record.name == f"JPEGImages/{name}.jpg" and record.labels is None
        assert record.image == (kit / record.name).read_bytes()
        assert record.mask == (kit / "SegmentationClass" / f"{name}.png").read_bytes()


def test_one_of_several_years_must_be_named(kit, tmp_path, rng):
    labelled.write_devkit(kit.parent / "VOC2007", rng, photos=2)
    with pytest.raises(DataError, match="VOC2007, VOC2012.*source=.*/VOC2012"):
        _open(kit.parent)
    archive = labelled.zipped(kit.parent.parent, tmp_path / "../both.zip")
    with pytest.raises(DataError, match="holds VOC2007, VOC2012"):
        _open(archive)
    assert len(_open(kit)) == 8 and len(_open(f"{archive}/VOCdevkit/VOC2007")) == 2


def test_devkit_inside_a_devkit_is_left_alone(kit, tmp_path, rng):
    labelled.write_devkit(kit / "old", rng, photos=2)
    assert len(_open(kit)) == len(_open(kit.parent)) == 8
    assert len(_open(labelled.zipped(kit.parent, tmp_path / "a.zip"))) == 8


def test_what_is_no_devkit(tmp_path):
    with pytest.raises(DataError, match="is no PASCAL VOC devkit"):
        voc.open_devkit(str(tmp_path))
    with pytest.raises(DataError, match="there is no .*absent"):
        voc.open_devkit(str(tmp_path / "absent"))
    (tmp_path / "a.zip").write_text("no")
    with pytest.raises(DataError, match="zip archive"):
        voc.open_devkit(str(tmp_path / "a.zip"))


def test_list_of_pairs_and_list_file_elsewhere(kit, tmp_path):
    (kit / "SegmentationClassAug").mkdir()
    other = masks.encode_mask(np.full((48, 64), 5, np.uint8))
    (kit / "SegmentationClassAug/2007_000003.png").write_bytes(other)
    path = tmp_path / "mine.txt"
    path.write_text(
        "/JPEGImages/2007_000003.jpg /SegmentationClassAug/2007_000003.png\n\n"
        "JPEGImages/2007_000001.jpg SegmentationClass/2007_000001.png\n"
        "2007_000000\n2007_000003\n"  # The last one is already listed.
    )
    photos = _open(kit, str(path))
    assert _ids(photos) == ["2007_000003", "2007_000001", "2007_000000"]
    assert photos[0].mask == other


def test_sbd_fills_in_for_masks_and_photos(kit, tmp_path):
    listed = [f"2007_{i:06}" for i in range(2)]
    _split_of(kit, "more", [*listed, "2010_000001", "2010_000002"])
    sbd = _write_sbd(tmp_path / "sbd/dataset", kit, ["2010_000001", "2010_000002"], [], [])
    for path in (sbd, sbd.parent):
        photos = _open(kit, "more", path)
        values = [np.unique(masks.decode_mask(photos[i].mask, 21)) for i in range(4)]
        assert values[0].max() == 255 and [v.tolist() for v in values[2:]] == [[1], [2]]
        assert photos[3].image == (sbd / "img/2010_000002.jpg").read_bytes()
    # If both have a mask, VOC's finer one is used.
    again = _write_sbd(tmp_path / "again", kit, listed, [], [])
    assert _open(kit, "train", again)[0].mask == _open(kit)[0].mask


def test_folder_of_masks_in_the_place_of_sbd(kit, tmp_path):
    (tmp_path / "aug").mkdir()
    for mask in (kit / "SegmentationClass").glob("2007_*"):
        mask.rename(tmp_path / "aug" / mask.name)
    photos = _open(kit, "train", tmp_path / "aug")
    assert len(photos) == 8
    assert photos[5].mask == (tmp_path / "aug/2007_000005.png").read_bytes()
    # All photos with a mask, except VOC's val.
    (tmp_path / "aug/2008_000001.png").write_bytes(photos[5].mask)
    assert _ids(_open(kit, "train_aug", tmp_path / "aug")) == [f"2007_{i:06}" for i in range(8)]


def test_train_aug_is_derived(kit, tmp_path):
    extra = ["2010_000007", "2010_000002"]
    sbd = _write_sbd(
        tmp_path / "sbd", kit, [*extra, "2008_000001"],
        train=[extra[0], "2007_000001"], val=[extra[1], "2008_000001"],
    )  # fmt: skip
    photos = _open(kit, "train_aug", sbd)
    # The photos of VOC's train and of SBD, each once, without VOC's val.
    assert _ids(photos) == [*(f"2007_{i:06}" for i in range(8)), "2010_000002", "2010_000007"]
    with pytest.raises(DataError, match=r"no train_aug\.txt.*data\.sbd"):
        _open(kit, "train_aug")
    (sbd / "val.txt").unlink()
    with pytest.raises(DataError, match=r"has no val\.txt"):
        _open(kit, "train_aug", sbd)
    _split_of(kit, "train_aug", ["2007_000004"])  # An existing list is used as it is.
    assert _ids(_open(kit, "train_aug")) == ["2007_000004"]


def test_sbd_that_is_none(kit, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(DataError, match=r"config\.data\.sbd=|there is no"):
            _open(kit, "train", path)


def test_list_that_names_absent_photos(kit):
    _split_of(kit, "bad", ["2007_000001", *(f"2099_{i}" for i in range(1200))])
    message = r"1,200 of the 1,201 photos \(2099_0, 2099_1, 2099_2, \.\.\.\) of .*bad\.txt are not"
    with pytest.raises(DataError, match=message):
        _open(kit, "bad")


def test_photos_without_mask(kit):
    for i in (2, 5):
        (kit / f"SegmentationClass/2007_{i:06}.png").unlink()
    message = (
        r"2 of the 8 photos \(2007_000002, 2007_000005\) of .*train\.txt have no mask in "
        r"SegmentationClass; .*config\.data\.sbd"
    )
    with pytest.raises(DataError, match=message):
        _open(kit)


def test_lists_that_are_empty_absent_or_no_lists(kit):
    _split_of(kit, "empty", ["", " "])
    with pytest.raises(DataError, match=r"empty\.txt is empty"):
        _open(kit, "empty")
    with pytest.raises(DataError, match=r"no list .*test\.txt; known: empty, train, val"):
        _open(kit, "test")
    _split_of(kit, "wide", ["2007_000001", "a b c"])
    with pytest.raises(DataError, match="line 2: 'a b c' is no id"):
        _open(kit, "wide")
    (kit / "ImageSets/Segmentation/binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is no list of photos"):
        _open(kit, "binary")


def test_names_of_the_classes(kit):
    devkit = voc.open_devkit(str(kit))
    names = voc.class_names(devkit, 21)
    assert names[:2] == ("background", "aeroplane") and names[-1] == "tvmonitor"
    assert len(names) == 21 and list(names[1:]) == sorted(names[1:])
    assert voc.class_names(devkit, 3) == ("class 0", "class 1", "class 2")
    (kit / "classes.txt").write_text("floor\nwall\nroof\n")
    assert voc.class_names(voc.open_devkit(str(kit)), 3) == ("floor", "wall", "roof")
    with pytest.raises(ConfigError, match=r"names 3: add --config\.task\.classes=3"):
        voc.class_names(voc.open_devkit(str(kit)), 21)


def _main(kit, name, lines):
    (kit / "ImageSets/Main" / f"{name}.txt").write_text("\n".join(lines))


def test_lists_of_objects(kit):
    _main(kit, "train_train", ["2007_000001 -1", "2007_000000  1"])  # This class is named train.
    _main(kit, "cat_train", ["2007_000000 0 ", "2007_000001 -1"])
    for name in ("aeroplane", "bicycle"):
        (kit / "ImageSets/Main" / f"{name}_train.txt").unlink()
    _main(kit, "train", ["2007_000000"])  # VOC has such a list too; it belongs to no class.
    photos, classes = voc.open_listed(voc.open_devkit(str(kit)), "train")
    assert classes == ("cat", "train")
    assert photos.labels.dtype == np.int8
    np.testing.assert_array_equal(photos.labels, [[0, 1], [-1, -1]])
    record = photos[0]
    np.testing.assert_array_equal(record.labels, [0, 1])
    assert record.mask is None and record.name == "JPEGImages/2007_000000.jpg"
    assert record.image == (kit / record.name).read_bytes()


def test_lists_of_objects_in_a_zip_are_those_of_the_folder(kit, tmp_path):
    archive = labelled.zipped(kit.parent, tmp_path / "kit.zip", "VOCdevkit/")
    one, other = (voc.open_listed(voc.open_devkit(str(p)), "val") for p in (kit, archive))
    assert one[1] == other[1] == ("aeroplane", "bicycle")
    np.testing.assert_array_equal(one[0].labels, other[0].labels)
    np.testing.assert_array_equal(one[0].labels[:3], [[1, 0], [-1, 1], [1, 1]])
    assert one[0][1].image == other[0][1].image


def test_mistakes_in_lists_of_objects(kit):
    def opened(split="train"):
        return voc.open_listed(voc.open_devkit(str(kit)), split)

    with pytest.raises(DataError, match=r"has no <class>_test\.txt; known: train, val"):
        opened("test")
    path = kit / "ImageSets/Main/aeroplane_train.txt"
    lines = path.read_text().splitlines()
    _main(kit, "aeroplane_train", lines[2:])
    with pytest.raises(DataError, match=r"aeroplane_train\.txt lacks 2 of the 8 photos \(2007_0"):
        opened()
    _main(kit, "aeroplane_train", [*lines[:3], "2007_000003 2"])
    with pytest.raises(DataError, match="line 4: '2007_000003 2'"):
        opened()
    _main(kit, "aeroplane_train", lines)
    (kit / "JPEGImages/2007_000006.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of the 8 photos \(2007_000006\) .* are not among"):
        opened()
    for name in ("aeroplane", "bicycle"):
        _main(kit, f"{name}_train", [])
    with pytest.raises(DataError, match="they list no photo"):
        opened()


def _move(kit, number, ending, folder="JPEGImages", name=""):
    """Renames a photo of train or its mask."""
    path = next((kit / folder).glob(f"2007_{number:06}.*"))
    return path.rename(path.with_name(f"{name or path.stem}{ending}"))


def test_photos_and_masks_with_other_endings(kit, tmp_path):
    for number, ending in enumerate((".png", ".jpeg", ".JPG", ".JPEG", ".PNG")):
        _move(kit, number, ending)
    _move(kit, 5, ".PNG", "SegmentationClass")
    (kit / "JPEGImages/2007_000006.png").write_bytes(b"another one")  # It lies beside the .jpg.
    endings = [".png", ".jpeg", ".JPG", ".JPEG", ".PNG", ".jpg", ".jpg", ".jpg"]
    expected = [f"JPEGImages/2007_{i:06}{ending}" for i, ending in enumerate(endings)]
    for path in (kit, labelled.zipped(kit, tmp_path / "a.zip")):
        assert _names(_open(path)) == expected
        photos, _ = voc.open_listed(voc.open_devkit(str(path)), "train")
        assert _names(photos) == expected
        assert photos[0].image == (kit / "JPEGImages/2007_000000.png").read_bytes()


def test_ids_with_endings_spaces_dots_and_accents(kit):
    decomposed = unicodedata.normalize("NFD", "Caf\u00e9")
    names = ["my photo 1", "shot.v2", decomposed, "a b"]
    for number, name in enumerate(names):
        _move(kit, number, ".jpg", name=name)
        _move(kit, number, ".png", "SegmentationClass", name=name)
    lines = [
        "my photo 1", "shot.v2.jpg", "Caf\u00e9", "/JPEGImages/a b.jpg /SegmentationClass/a b.png",
        "2007_000004.png", "JPEGImages/2007_000005.jpg",
    ]  # fmt: skip
    _split_of(kit, "odd", lines)
    photos = _open(kit, "odd")
    assert _ids(photos) == [*names, "2007_000004", "2007_000005"]
    for i in range(len(photos)):
        assert photos[i].image and masks.decode_mask(photos[i].mask, 21).shape == (48, 64)
    _main(kit, "aeroplane_odd", [f"{name}  1" for name in lines[:3]])
    assert _ids(voc.open_listed(voc.open_devkit(str(kit)), "odd")[0]) == [
        decomposed, "my photo 1", "shot.v2",
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_no_part_of_a_list(kit, encoding):
    for path in (kit / "ImageSets").glob("*/*train.txt"):
        path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    (kit / "classes.txt").write_bytes("floor\nwall\n".encode(encoding))
    devkit = voc.open_devkit(str(kit))
    assert len(_open(kit)) == len(voc.open_listed(devkit, "train")[0]) == 8
    assert voc.class_names(devkit, 2) == ("floor", "wall")


def test_what_other_systems_leave_in_a_devkit(kit, tmp_path):
    (kit / "ImageSets/Main/._aeroplane_train.txt").write_bytes(b"\0\5\x16\7")
    for name in ("__MACOSX/VOC2012/ImageSets/Main/._x.txt", "@eaDir/VOC2012/ImageSets/x"):
        (kit.parent / name).parent.mkdir(parents=True)
        (kit.parent / name).write_text("")
    for path in (kit.parent, labelled.zipped(kit.parent, tmp_path / "a.zip")):
        _, classes = voc.open_listed(voc.open_devkit(str(path)), "train")
        assert classes == ("aeroplane", "bicycle")


def test_pipes_in_the_place_of_lists(kit, tmp_path):
    os.mkfifo(tmp_path / "list.txt")
    os.mkfifo(kit / "classes.txt")
    with pytest.raises(DataError, match=r"list\.txt.*not a file"):
        _open(kit, str(tmp_path / "list.txt"))
    with pytest.raises(DataError, match=r"classes\.txt.*not a file"):
        voc.class_names(voc.open_devkit(str(kit)), 3)
    for path in (tmp_path / "list.txt", kit / "classes.txt"):
        with pytest.raises(DataError, match="is no file"):
            voc.open_devkit(str(path))


def test_names_of_bytes_that_are_no_text(kit):
    name = os.fsdecode(b"fl\xfcgel")
    _move(kit, 0, ".jpg", name=name)
    _move(kit, 0, ".png", "SegmentationClass", name=name)
    (kit / "ImageSets/Segmentation/latin.txt").write_bytes(b"fl\xfcgel\n")
    assert _ids(_open(kit, "latin")) == [name]
