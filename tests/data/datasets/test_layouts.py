"""Every data set in a tiny tree of its true layout: names, numbers, colours, what is odd."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from scipy.io import savemat
from scipy.sparse import csc_matrix

from crispseg.cli import main as cli
from crispseg.data.datasets import DATASETS, ade20k, cityscapes, gleason, open_dataset
from crispseg.data.datasets.folder import default_colour
from crispseg.types import InputError

VOID = 255
SHAPE = (2, 3)


def write(path: Path, pixels: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Pillow.fromarray(pixels)
    if palette:
        image.putpalette([value for i in range(256) for value in default_colour(i)])
    image.save(path)


def photo(path: Path) -> None:
    write(path, np.full((*SHAPE, 3), 100, np.uint8))


def grid(*values: int, dtype: type = np.uint8) -> np.ndarray:
    return np.array(values, dtype).reshape(SHAPE)


def names(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def voc(root: Path) -> None:
    for name in ("2007_000033", "2007_000042"):
        photo(root / f"JPEGImages/{name}.jpg")
        write(root / f"SegmentationClass/{name}.png", grid(0, 1, 255, 15, 20, 255), palette=True)
    write(root / "SegmentationClassAug/2007_000033.png", grid(3, 3, 3, 255, 0, 0))
    names(root / "ImageSets/Segmentation/val.txt", "2007_000033", "2007_000042")
    names(
        root / "ImageSets/Segmentation/train_aug.txt",
        "/JPEGImages/2007_000033.jpg /SegmentationClassAug/2007_000033.png",
    )


def context(root: Path) -> None:
    photo(root / "JPEGImages/2008_000002.jpg")
    write(root / "SegmentationClassContext/2008_000002.png", grid(0, 1, 59, 20, 255, 2))
    names(root / "ImageSets/SegmentationContext/val.txt", "2008_000002")


def person_part(root: Path) -> None:
    photo(root / "JPEGImages/2008_000008.jpg")
    write(root / "pascal_person_part_gt/2008_000008.png", grid(0, 1, 6, 2, 255, 3), palette=True)
    names(root / "pascal_person_part_trainval_list/val.txt", "2008_000008")


def ade(root: Path) -> None:
    photo(root / "images/validation/ADE_val_00000001.jpg")
    write(root / "annotations/validation/ADE_val_00000001.png", grid(0, 1, 150, 13, 0, 2))


def ade_full(root: Path) -> None:
    pixels = np.zeros((*SHAPE, 3), np.uint8)
    pixels[0, 0] = (0, 1, 7)  # object 1
    pixels[0, 1] = (20, 5, 9)  # 2 * 256 + 5
    pixels[0, 2] = (140, 104, 0)  # 14 * 256 + 104 = 3688, the last
    pixels[1] = (0, 0, 3)  # void
    photo(root / "images/validation/a/abbey/ADE_val_00000001.jpg")
    write(root / "images/validation/a/abbey/ADE_val_00000001_seg.png", pixels)


def streets(kind: str) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        name = "frankfurt_000000_000294"
        photo(root / f"leftImg8bit/val/frankfurt/{name}_leftImg8bit.png")
        ids = grid(7, 26, 26, 33, 4, 0)
        write(root / f"{kind}/val/frankfurt/{name}_{kind}_labelIds.png", ids)
        instances = grid(7, 26000, 26001, 33, 4, 0, dtype=np.uint16)
        write(root / f"{kind}/val/frankfurt/{name}_{kind}_instanceIds.png", instances)

    return build


def nyu(root: Path) -> None:
    photo(root / "RGB/5003.png")
    write(root / "Label/5003.png", grid(0, 1, 40, 5, 255, 2))
    names(root / "test.txt", "RGB/5003.png Label/5003.png")


def sun(root: Path) -> None:
    photo(root / "SUNRGBD-test_images/img-000001.jpg")
    photo(root / "SUNRGBD-train_images/img-005051.jpg")
    for number in (1, 5051):
        write(root / f"sunrgbd_train_test_labels/img-{number:06}.png", grid(0, 1, 37, 5, 0, 2))


def deepglobe(root: Path) -> None:
    colours = [(0, 255, 255), (255, 254, 3), (250, 5, 255), (0, 255, 0), (2, 0, 251), (0, 0, 0)]
    for name in ("119", "855"):
        photo(root / f"train/{name}_sat.jpg")
        write(root / f"train/{name}_mask.png", np.array(colours, np.uint8).reshape(*SHAPE, 3))
    names(root / "val.txt", "855_sat.jpg")


def cores(root: Path) -> None:
    name = "slide001_core003"
    photo(root / f"Train Imgs/{name}.jpg")
    votes = [grid(0, 3, 4, 5, 3, 6), grid(1, 3, 4, 5, 4, 3), grid(3, 4, 4, 5, 5, 4)]
    for expert, labels in zip((1, 3, 6), votes, strict=True):  # the others have none
        write(root / f"Maps{expert}_T/{name}_classimg_nonconvex.png", labels)


MASK = grid(0, 255, 255, 0, 129, 120)


def objects(*files: str) -> Callable[[Path], None]:
    """Photos, each with its mask behind "="."""

    def build(root: Path) -> None:
        for pair in files:
            image, _, mask = pair.partition("=")
            photo(root / image)
            write(root / mask, MASK)

    return build


A, V = "all", "val"
LAYOUTS = {
    "voc2012": (voc, V, ["2007_000033", "2007_000042"], grid(0, 1, VOID, 15, 20, VOID), 21),
    "pascal-context": (context, V, ["2008_000002"], grid(0, 1, 59, 20, VOID, 2), 60),
    "person-part": (person_part, V, ["2008_000008"], grid(0, 1, 6, 2, VOID, 3), 7),
    "ade20k": (ade, V, ["ADE_val_00000001"], grid(VOID, 0, 149, 12, VOID, 1), 150),
    "ade20k-full": (
        *(ade_full, V, ["ADE_val_00000001"]),
        *(grid(0, 516, 3687, 65535, 65535, 65535, dtype=np.uint16), 3688),
    ),
    "cityscapes": (
        *(streets("gtFine"), V, ["frankfurt_000000_000294"]),
        *(grid(0, 13, 13, 18, VOID, VOID), 19),
    ),
    "cityscapes-coarse": (
        *(streets("gtCoarse"), V, ["frankfurt_000000_000294"]),
        *(grid(0, 13, 13, 18, VOID, VOID), 19),
    ),
    "nyudv2": (nyu, "test", ["5003"], grid(VOID, 0, 39, 4, VOID, 1), 40),
    "sunrgbd": (sun, "test", ["img-000001"], grid(VOID, 0, 36, 4, VOID, 1), 37),
    "deepglobe": (deepglobe, A, ["119", "855"], grid(0, 1, 2, 3, 4, VOID), 6),
    "gleason": (cores, A, ["slide001_core003"], grid(0, 1, 2, 3, 1, 0), 4),
}
PAIRS = {
    "big": (V, "val/bus_im.jpg=val/bus_gt.png", "bus"),
    "voc2012-relabelled": (V, "2007_000033_01_im.png=2007_000033_01_gt.png",
                           "2007_000033_01"),
    "msra10k": (A, "Imgs/100.jpg=Imgs/100.png", "100"),
    "duts": ("test", "DUTS-TE/DUTS-TE-Image/ILS_1.jpg=DUTS-TE/DUTS-TE-Mask/ILS_1.png", "ILS_1"),
    "dut-omron": (A, "DUT-OMRON-image/im005.jpg=pixelwiseGT-new-PNG/im005.png", "im005"),
    "ecssd": (A, "images/0001.jpg=ground_truth_mask/0001.png", "0001"),
    "fss1000": (A, "abacus/1.jpg=abacus/1.png", "1"),
    "hrsod": ("train", "HRSOD_train/a.jpg=HRSOD_train_mask/a.png", "a"),
    "dis5k": ("test2", "DIS-TE2/im/x.jpg=DIS-TE2/gt/x.png", "x"),
}  # fmt: skip
OWN_NUMBERS = {"ade20k", "cityscapes", "cityscapes-coarse", "nyudv2", "sunrgbd"}  # no classes
for _name, (_split, _files, _item) in PAIRS.items():
    LAYOUTS[_name] = (objects(_files), _split, [_item], grid(0, 1, 1, 0, 1, 0), 2)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_tiny_tree_is_read(name, tmp_path) -> None:
    build, split, items, labels, classes = LAYOUTS[name]
    build(tmp_path)
    data = open_dataset(name, tmp_path, split)
    assert [item.name for item in data] == items
    assert data.num_classes == classes == len(data.colours)
    assert len(set(data.class_names)) == classes
    read = data[0].read_labels()
    assert read.dtype == labels.dtype
    np.testing.assert_array_equal(read, labels)
    assert data[0].read_image().shape == (*SHAPE, 3)
    assert bool(data.numbers) == (name in OWN_NUMBERS)
    assert set(data.numbers.values()) <= {*range(classes), VOID}
    assert len(set(data.numbers.values()) - {VOID}) == classes * bool(data.numbers)
    valid = read[read != data.ignore_index]
    assert valid.max() < classes
    again = pickle.loads(pickle.dumps(data))  # as workers get it
    np.testing.assert_array_equal(again[0].read_labels(), labels)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_archives_of_macos_leave_is_no_image(name, tmp_path) -> None:
    """A file ._NAME beside each NAME, and all once more in __MACOSX."""
    build, split, items, *_ = LAYOUTS[name]
    build(tmp_path)
    for path in [path for path in tmp_path.rglob("*.*") if path.suffix != ".txt"]:
        for place in (path.parent, tmp_path / "__MACOSX" / path.parent.relative_to(tmp_path)):
            place.mkdir(parents=True, exist_ok=True)
            (place / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    data = open_dataset(name, tmp_path, split)
    assert [item.name for item in data] == items
    assert data[0].read_image().shape == (*SHAPE, 3)


def test_every_data_set_has_a_layout_here() -> None:
    assert set(DATASETS) - set(LAYOUTS) == {"camvid", "folder"}  # in their own file


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_wrong_root_shows_the_expected_tree(name, tmp_path) -> None:
    split = LAYOUTS[name][1]
    for root in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="expected:\nROOT/") as caught:
            open_dataset(name, root, split)
        assert DATASETS[name].where in str(caught.value)
    with pytest.raises(InputError, match="has no split 'mid'; it has"):
        open_dataset(name, tmp_path, "mid")


@pytest.mark.parametrize(
    ("name", "gone", "message"),
    [
        ("voc2012", "SegmentationClass/2007_000042.png", "2007_000042.jpg has no label map"),
        ("voc2012", "JPEGImages/2007_000042.jpg", "no image .*2007_000042.jpg, which is listed"),
        ("ade20k", "annotations/validation/ADE_val_00000001.png", "has no label map"),
        ("cityscapes", "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png",
         "has no label map"),
        ("deepglobe", "train/855_mask.png", "855_sat.jpg has no label map 855_mask.png"),
        ("sunrgbd", "sunrgbd_train_test_labels/img-000001.png", "has no label map"),
    ],
)  # fmt: skip
def test_a_missing_file_is_named(name, gone, message, tmp_path) -> None:
    build, split, *_ = LAYOUTS[name]
    build(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(InputError, match=message):
        open_dataset(name, tmp_path, split)


def test_sbd_adds_its_labels_to_voc(tmp_path) -> None:
    voc(tmp_path)
    data = open_dataset("voc2012", tmp_path, "trainaug")
    np.testing.assert_array_equal(data[0].read_labels(), grid(3, 3, 3, VOID, 0, 0))


def test_sbd_as_distributed_adds_to_voc(tmp_path) -> None:
    """Names of VOC's train, and of SBD's two lists without VOC's val; MATLAB files."""
    voc(tmp_path)
    shutil.rmtree(tmp_path / "SegmentationClassAug")
    sbd = tmp_path / "benchmark_RELEASE/dataset"
    names(tmp_path / "ImageSets/Segmentation/val.txt", "2007_000042")
    names(tmp_path / "ImageSets/Segmentation/train.txt", "2007_000033")
    names(sbd / "train.txt", "2007_000033", "2008_000003")
    names(sbd / "val.txt", "2007_000042", "2008_000001")
    for name in ("2008_000001", "2008_000003"):
        photo(tmp_path / f"JPEGImages/{name}.jpg")
        outlines = np.empty((20, 1), object)
        outlines[:, 0] = [csc_matrix(SHAPE)] * 20
        found = {"Boundaries": outlines, "Segmentation": grid(3, 3, 20, 0, 0, 0)}
        found["CategoriesPresent"] = np.array([[3], [20]], np.uint8)
        (sbd / "cls").mkdir(exist_ok=True)
        savemat(sbd / f"cls/{name}.mat", {"GTcls": found}, do_compression=True)
    data = open_dataset("voc2012", tmp_path, "trainaug")
    assert [item.name for item in data] == ["2007_000033", "2008_000001", "2008_000003"]
    np.testing.assert_array_equal(data[0].read_labels(), grid(0, 1, VOID, 15, 20, VOID))
    np.testing.assert_array_equal(data[1].read_labels(), grid(3, 3, 20, 0, 0, 0))
    assert data[1].read_labels().dtype == np.uint8
    savemat(sbd / "cls/2008_000001.mat", {"GTinst": found})
    with pytest.raises(InputError, match=r"holds no GTcls\.Segmentation"):
        data[1].read_labels()
    (sbd / "cls/2008_000003.mat").unlink()
    with pytest.raises(InputError, match=r"has no label map .*2008_000003\.mat"):
        open_dataset("voc2012", tmp_path, "trainaug")


def test_context_as_distributed_has_459_labels(tmp_path) -> None:
    """MATLAB files beside VOC 2010; its main lists; rare labels are background."""
    photo(tmp_path / "JPEGImages/2008_000002.jpg")
    (tmp_path / "trainval").mkdir()
    labels = grid(2, 427, 454, 1, 458, 9, dtype=np.uint16)
    savemat(tmp_path / "trainval/2008_000002.mat", {"LabelMap": labels})
    names(tmp_path / "ImageSets/Main/val.txt", "2008_000002")
    data = open_dataset("pascal-context", tmp_path, "val")
    read = data[0].read_labels()
    found = [data.class_names[number] for number in read.ravel()]
    assert found == ["aeroplane", "tvmonitor", "window", "background", "wood", "bag"]
    # as maps that are made from them have it: 2008_000002 holds 0, 55 and 58
    assert read.ravel().tolist() == [1, 55, 58, 0, 59, 2]
    assert list(data.class_names[1:]) == sorted(data.class_names[1:])
    savemat(tmp_path / "trainval/2008_000002.mat", {"LabelMap": labels + 0.5})
    with pytest.raises(InputError, match="LabelMap is no map of class numbers"):
        data[0].read_labels()


def test_the_splits_of_hrsod_share_a_folder(tmp_path) -> None:
    objects("HRSOD_train/a.jpg=HRSOD_train_mask/a.png", "HRSOD_test/a.jpg=HRSOD_test_mask/a.png")(
        tmp_path
    )
    write(tmp_path / "HRSOD_test_mask/a.png", np.zeros(SHAPE, np.uint8))
    assert open_dataset("hrsod", tmp_path, "train")[0].read_labels().any()
    assert not open_dataset("hrsod", tmp_path, "test")[0].read_labels().any()


def test_objects_of_fss_have_their_kind_in_their_name(tmp_path) -> None:
    objects("abacus/1.jpg=abacus/1.png", "ab_wheel/1.jpg=ab_wheel/1.png")(tmp_path)
    found = [item.name for item in open_dataset("fss1000", tmp_path, "all")]
    assert found == ["ab_wheel/1", "abacus/1"]


def test_cityscapes_knows_objects_and_categories(tmp_path) -> None:
    streets("gtFine")(tmp_path)
    data = open_dataset("cityscapes", tmp_path, "val")
    instances = grid(0, 26000, 26001, 0, 0, 0, dtype=np.uint16)
    np.testing.assert_array_equal(data[0].read_instances(), instances)
    assert len(set(data.categories)) == 7
    assert data.average_sizes[data.class_names.index("car")] == 12794.0202738185
    assert {k.file_id for k in cityscapes.CLASSES} == {
        *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    }
    assert data.colours[0] == (128, 64, 128)


def test_labels_beyond_the_classes_are_refused(tmp_path) -> None:
    ade(tmp_path)
    write(tmp_path / "annotations/validation/ADE_val_00000001.png", grid(0, 1, 151, 0, 0, 0))
    with pytest.raises(InputError, match="label 151 is none of"):
        open_dataset("ade20k", tmp_path, "val")[0].read_labels()
    write(tmp_path / "x.png", np.full((*SHAPE, 3), 250, np.uint8))
    with pytest.raises(InputError, match="holds object 6650"):
        ade20k.read_objects(tmp_path / "x.png")


def test_colours_of_no_class_are_refused(tmp_path) -> None:
    deepglobe(tmp_path)
    red = np.zeros((*SHAPE, 3), np.uint8)
    red[0, 0] = (255, 0, 0)
    write(tmp_path / "train/119_mask.png", red)
    with pytest.raises(InputError, match="holds red"):
        open_dataset("deepglobe", tmp_path, "all")[0].read_labels()
    assert [item.name for item in open_dataset("deepglobe", tmp_path, "val")] == ["855"]


def test_experts_of_one_core_must_agree_on_its_size(tmp_path) -> None:
    cores(tmp_path)
    other = tmp_path / "Maps3_T/slide001_core003_classimg_nonconvex.png"
    write(other, np.zeros((3, 3), np.uint8))
    with pytest.raises(InputError, match="differ in size"):
        gleason.read_majority((tmp_path / "Maps1_T" / other.name, other))


def test_the_full_ade20k_names_its_objects(tmp_path) -> None:
    ade_full(tmp_path)
    names(tmp_path / "objects.txt", "abacus", "abbey")
    data = open_dataset("ade20k-full", tmp_path, "val")
    assert data.class_names[:3] == ("abacus", "abbey", "object 3")
    # as released in 2021: a table with a header, which says nothing of the objects' numbers
    names(tmp_path / "objects.txt", "WordNet\t ADE names ", "wall\twall")
    assert open_dataset("ade20k-full", tmp_path, "val").class_names[0] == "object 1"
    found = np.empty((1, 3), object)
    found[0] = ["-", " ", "abandoned, forsaken"]
    index = {"objectnames": found, "objectPresence": csc_matrix(np.eye(3))}
    savemat(tmp_path / "index_ade20k.mat", {"index": index}, do_compression=True)
    data = open_dataset("ade20k-full", tmp_path, "val")
    assert data.class_names[:4] == ("-", "object 2", "abandoned, forsaken", "object 4")
    assert len(data.class_names) == 3688
    savemat(tmp_path / "index_ade20k.mat", {"index": np.zeros(3)})
    with pytest.raises(InputError, match=r"holds no index\.objectnames"):
        open_dataset("ade20k-full", tmp_path, "val")


def test_they_are_listed_with_licence_and_place(capsys) -> None:
    assert cli.run(["datasets"]) == 0
    out = capsys.readouterr().out
    for spec in DATASETS.values():
        assert f"\n{spec.name} " in f"\n{out}"
        assert spec.licence in out
        assert spec.where in out
    assert cli.run(["datasets", "gleason"]) == 0
    assert "Train Imgs/" in capsys.readouterr().out
    assert cli.run(["datasets", "--json"]) == 0
    assert '"name": "big"' in capsys.readouterr().out
    assert cli.run(["datasets", "voc"]) == 2
    assert "known: voc2012" in capsys.readouterr().err
