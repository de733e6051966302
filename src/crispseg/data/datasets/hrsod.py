"""HRSOD: 1,610 + 400 photos of high resolution with salient objects (Zeng et al., ICCV 2019)."""

from crispseg.data.datasets.objects import object_spec

TREE = """\
ROOT/
  HRSOD_train/*.jpg  HRSOD_train_mask/*.png
  HRSOD_test/*.jpg  HRSOD_test_mask/*.png
"""
SPEC = object_spec(
    name="hrsod",
    title="HRSOD",
    folders={"train": "", "test": ""},
    images={"train": "HRSOD_train", "test": "HRSOD_test"},
    licence="research",
    where="https://github.com/yi94code/HRSOD",
    tree=TREE,
)
