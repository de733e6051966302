"""DUTS: 10,553 + 5,019 photos with salient objects (Wang et al., CVPR 2017)."""

from crispseg.data.datasets.objects import object_spec

TREE = """\
ROOT/
  DUTS-TR/DUTS-TR-Image/*.jpg  DUTS-TR/DUTS-TR-Mask/*.png
  DUTS-TE/DUTS-TE-Image/*.jpg  DUTS-TE/DUTS-TE-Mask/*.png
"""
SPEC = object_spec(
    name="duts",
    title="DUTS",
    folders={"train": "DUTS-TR", "test": "DUTS-TE"},
    licence="not stated",
    where="http://saliencydetection.net/duts",
    tree=TREE,
)
