import hashlib
from pathlib import Path

import pytest

from crispseg.data.pairs import (
    MASK_FOLDERS,
    Labelled,
    Pair,
    find_labelled,
    find_pairs,
    is_test,
    names_of,
    sequence_of,
)
from crispseg.types import InputError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "masks"),
        ("images", "ground_truth_mask"),
        ("image", "mask"),
        ("DUTS-TR-Image", "DUTS-TR-Mask"),
        ("DUTS-TE-Image", "DUTS-TE-Mask"),
        ("DUT-OMRON-image", "pixelwiseGT-new-PNG"),
        ("im", "gt"),
        ("HRSOD_train", "HRSOD_train_mask"),
        ("HRSOD_test", "HRSOD_test_mask"),
    ],
)
def test_two_folders(tmp_path: Path, images: str, masks: str) -> None:
    inner = tmp_path / "set"
    touch(*(inner / images / f"{n}.jpg" for n in ("b", "a", "lone")))
    touch(*(inner / masks / f"{n}.png" for n in ("a", "b", "other")))
    expected = [Pair(inner / images / f"{n}.jpg", inner / masks / f"{n}.png") for n in "ab"]
    assert find_pairs(inner) == expected
    assert find_pairs(tmp_path) == expected  # or one folder above


def test_parts_of_a_data_set_do_not_mix(tmp_path: Path) -> None:
    """DIS5K: the same stem in two parts is two images."""
    for part in ("DIS-TR", "DIS-VD"):
        touch(tmp_path / part / "im" / "1#a.jpg", tmp_path / part / "gt" / "1#a.png")
    touch(tmp_path / "DIS-TE1" / "im" / "2.jpg")  # its masks are elsewhere
    for pair in find_pairs(tmp_path):
        assert pair.mask == pair.image.parents[1] / "gt" / "1#a.png"
    assert len(find_pairs(tmp_path)) == 2
    assert len(find_pairs(tmp_path / "DIS-TR")) == 1


def test_side_by_side_in_subfolders(tmp_path: Path) -> None:
    touch(tmp_path / "ab" / "1.jpg", tmp_path / "ab" / "1.png", tmp_path / "2.jpg")
    assert find_pairs(tmp_path) == [Pair(tmp_path / "ab" / "1.jpg", tmp_path / "ab" / "1.png")]


def test_msra10k(tmp_path: Path) -> None:
    touch(*(tmp_path / "Imgs" / f"{n}.{s}" for n in (100000, 99999) for s in ("jpg", "png")))
    found = find_pairs(tmp_path)
    assert [(p.image.name, p.mask.name) for p in found] == [
        ("100000.jpg", "100000.png"),
        ("99999.jpg", "99999.png"),
    ]


def test_fss1000_names_hold_the_class(tmp_path: Path) -> None:
    for name in ("abacus", "zebra"):
        touch(*(tmp_path / name / f"{n}.{s}" for n in (1, 2) for s in ("jpg", "png")))
    touch(tmp_path / "zebra" / "3.jpg", tmp_path / "zebra" / "3.png")
    pairs = find_pairs(tmp_path)
    names = ["abacus/1.jpg", "abacus/2.jpg", "zebra/1.jpg", "zebra/2.jpg", "3.jpg"]
    assert names_of(pairs) == names
    assert names_of(pairs[:2]) == ["1.jpg", "2.jpg"]  # unique: the file name alone


def test_big(tmp_path: Path) -> None:
    touch(*(tmp_path / f"2007_dog_0_{end}" for end in ("im.jpg", "gt.png", "seg.png")))
    (pair,) = find_pairs(tmp_path)
    assert (pair.image.name, pair.mask.name) == ("2007_dog_0_im.jpg", "2007_dog_0_gt.png")


def test_relabelled_pascal_has_photos_as_png(tmp_path: Path) -> None:
    touch(*(tmp_path / f"2007_000033_01_{end}.png" for end in ("im", "gt", "seg")))
    (pair,) = find_pairs(tmp_path)
    assert (pair.image.name, pair.mask.name) == ("2007_000033_01_im.png", "2007_000033_01_gt.png")


def test_suffixes_in_any_case(tmp_path: Path) -> None:
    touch(tmp_path / "side" / "a.JPG", tmp_path / "side" / "a.PNG")
    touch(tmp_path / "big" / "b_im.Jpeg", tmp_path / "big" / "b_gt.Png")
    touch(tmp_path / "two" / "images" / "c.JPG", tmp_path / "two" / "masks" / "c.PNG")
    assert [p.mask.name for p in find_pairs(tmp_path)] == ["b_gt.Png", "a.PNG", "c.PNG"]


def test_images_folder_of_jpgs_does_not_pair_with_itself(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.jpg", tmp_path / "masks" / "a.png")
    assert len(find_pairs(tmp_path)) == 1
    touch(tmp_path / "masks" / "a.jpg")  # a preview of the mask beside it: not an image
    assert find_pairs(tmp_path) == [
        Pair(tmp_path / "images" / "a.jpg", tmp_path / "masks" / "a.png")
    ]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "real" / "images" / "a.jpg", tmp_path / "real" / "masks" / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "real")
    (pair,) = find_pairs(tmp_path / "set")
    assert pair.image == tmp_path / "set" / "linked" / "images" / "a.jpg"


def test_list_of_names_chooses(tmp_path: Path) -> None:
    for part in ("HRSOD_train", "HRSOD_test"):
        stems = [f"{part}.{n}" for n in "abc"]  # a dot in a stem is not a suffix
        touch(*(tmp_path / part / f"{s}.jpg" for s in stems))
        touch(*(tmp_path / f"{part}_mask" / f"{s}.png" for s in stems))
    chosen = tmp_path / "train.txt"
    chosen.write_text("HRSOD_train.b.jpg\nHRSOD_test/HRSOD_test.c\n\n")
    assert [p.image.stem for p in find_pairs(chosen)] == ["HRSOD_test.c", "HRSOD_train.b"]
    chosen.write_bytes("HRSOD_train.a".encode("utf-8-sig"))
    assert [p.image.stem for p in find_pairs(chosen)] == ["HRSOD_train.a"]
    chosen.write_text("missing.jpg\n")
    with pytest.raises(InputError, match="names missing, which is no image with a mask"):
        find_pairs(chosen)


def test_nothing_found_says_what_was_expected(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.jpg", tmp_path / "masks" / "b.png")
    with pytest.raises(InputError, match=r"expected images/ \+ masks/") as error:
        find_pairs(tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for name in ("DUTS-TR-Mask", "ECSSD", "MSRA-10K", "FSS-1000", "DIS5K", "BIG", "DUT-OMRON"):
        assert name in message
    assert all(
        f"{f}/ + {m[0]}/" in message for f, m in MASK_FOLDERS.items() if "te" not in f.lower()
    )
    with pytest.raises(InputError, match="no such folder"):
        find_pairs(tmp_path / "missing")


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("images/a.jpg", "labels/a.png"),
        ("images/training/a.jpg", "annotations/training/a.png"),
        (
            "leftImg8bit/train/ulm/ulm_0_leftImg8bit.png",
            "gtFine/train/ulm/ulm_0_gtFine_labelIds.png",
        ),
    ],
)
def test_label_maps(tmp_path: Path, image: str, labels: str) -> None:
    touch(tmp_path / image, tmp_path / labels)
    touch((tmp_path / image).with_name("lone.jpg"), (tmp_path / labels).with_name("other.png"))
    assert find_labelled(tmp_path) == [Labelled(tmp_path / image, tmp_path / labels)]


def test_no_label_maps_says_what_was_expected(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.jpg", tmp_path / "labels" / "b.png")
    with pytest.raises(InputError, match=r"expected images/ \+ labels/; .*ADE20K.*Cityscapes"):
        find_labelled(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_labelled(tmp_path / "missing")


def test_split_is_the_first_byte_of_the_hash_below_26() -> None:
    names = [f"photo{i}.jpg" for i in range(2000)]
    expected = [int(hashlib.sha256(n.encode()).hexdigest()[:2], 16) < 26 for n in names]
    assert [is_test(n) for n in names] == expected
    assert 0.07 < sum(expected) / len(names) < 0.13


def test_known_sequences() -> None:
    assert is_test("parkour")
    assert not is_test("blackswan")


def test_sequence_of_frames_and_of_single_images() -> None:
    assert sequence_of(Path("x/car-shadow_00010.jpg")) == "car-shadow"
    assert sequence_of(Path("x/my_photo.jpg")) == "my_photo.jpg"
    assert sequence_of(Path("x/00010.jpg")) == "00010.jpg"
