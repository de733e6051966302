import hashlib
from pathlib import Path

import pytest

from crispseg.data.pairs import Pair, find_pairs, is_test, sequence_of
from crispseg.types import InputError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("images", "masks"),
    [("images", "masks"), ("DUTS-TR-Image", "DUTS-TR-Mask"), ("im", "gt")],
)
def test_two_folders(tmp_path: Path, images: str, masks: str) -> None:
    touch(tmp_path / images / "b.jpg", tmp_path / images / "a.jpg", tmp_path / images / "lone.jpg")
    touch(tmp_path / masks / "a.png", tmp_path / masks / "b.png", tmp_path / masks / "other.png")
    assert find_pairs(tmp_path) == [
        Pair(tmp_path / images / f"{n}.jpg", tmp_path / masks / f"{n}.png") for n in "ab"
    ]


def test_side_by_side_in_subfolders(tmp_path: Path) -> None:
    touch(tmp_path / "ab" / "1.jpg", tmp_path / "ab" / "1.png", tmp_path / "2.jpg")
    assert find_pairs(tmp_path) == [Pair(tmp_path / "ab" / "1.jpg", tmp_path / "ab" / "1.png")]


def test_big(tmp_path: Path) -> None:
    touch(*(tmp_path / f"2007_dog_0_{end}" for end in ("im.jpg", "gt.png", "seg.png")))
    (pair,) = find_pairs(tmp_path)
    assert (pair.image.name, pair.mask.name) == ("2007_dog_0_im.jpg", "2007_dog_0_gt.png")


def test_images_folder_of_jpgs_does_not_pair_with_itself(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.jpg", tmp_path / "masks" / "a.png")
    assert len(find_pairs(tmp_path)) == 1


def test_nothing_found_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected images/ with masks/"):
        find_pairs(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_pairs(tmp_path / "missing")


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
