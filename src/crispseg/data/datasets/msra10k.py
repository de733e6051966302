"""MSRA-10K: 10,000 photos with one object each (Cheng et al., PAMI 2015)."""

from crispseg.data.datasets.objects import object_spec

TREE = """\
ROOT/
  Imgs/*.jpg  Imgs/*.png
"""
SPEC = object_spec(
    name="msra10k",
    title="MSRA-10K",
    folders={"all": ""},
    licence="research",
    where="https://mmcheng.net/msra10k",
    tree=TREE,
)
