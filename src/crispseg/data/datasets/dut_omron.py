"""DUT-OMRON: 5,168 photos with salient objects (Yang et al., CVPR 2013)."""

from crispseg.data.datasets.objects import object_spec

TREE = """\
ROOT/
  DUT-OMRON-image/*.jpg  pixelwiseGT-new-PNG/*.png
"""
SPEC = object_spec(
    name="dut-omron",
    title="DUT-OMRON",
    folders={"all": ""},
    licence="not stated",
    where="http://saliencydetection.net/dut-omron",
    tree=TREE,
)
