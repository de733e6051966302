"""BIG: 50 + 100 objects in photos of 2048x1600 to 5000x3600 (Cheng et al., CVPR 2020)."""

from crispseg.data.datasets.objects import object_spec

TREE = """\
ROOT/
  val/*_im.jpg  val/*_gt.png  val/*_seg.png   (_seg: the coarse mask, not read here)
  test/*_im.jpg  test/*_gt.png  test/*_seg.png
"""
SPEC = object_spec(
    name="big",
    title="BIG",
    folders={"val": "val", "test": "test"},
    licence="non-commercial",
    where="https://github.com/hkchengrex/CascadePSP",
    tree=TREE,
)
