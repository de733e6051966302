"""DIS5K: 5,470 photos of objects with fine structures (Qin et al., ECCV 2022)."""

from crispseg.data.datasets.objects import object_spec

TREE = """\
ROOT/
  DIS-TR/im/*.jpg  DIS-TR/gt/*.png   (DIS-VD, DIS-TE1 to DIS-TE4 alike)
"""
SPEC = object_spec(
    name="dis5k",
    title="DIS5K",
    folders={"train": "DIS-TR", "val": "DIS-VD"} | {f"test{i}": f"DIS-TE{i}" for i in range(1, 5)},
    licence="non-commercial, its own terms",
    where="https://xuebinqin.github.io/dis",
    tree=TREE,
)
