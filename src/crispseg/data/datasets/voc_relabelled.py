"""500 objects of PASCAL VOC 2012 val with exact masks (Cheng et al., CVPR 2020)."""

from crispseg.data.datasets.objects import object_spec

TREE = """\
ROOT/
  *_im.png or .jpg  *_gt.png  *_seg.png   (as in BIG; NAME_CLASS_im: an object of that class;
                                           _seg: the coarse mask, not read here)
"""
SPEC = object_spec(
    name="voc2012-relabelled",
    title="the relabelled PASCAL VOC 2012",
    folders={"val": ""},
    licence="non-commercial",
    where="https://github.com/hkchengrex/CascadePSP",
    tree=TREE,
)
