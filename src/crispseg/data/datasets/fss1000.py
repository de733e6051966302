"""FSS-1000: ten photos of each of 1,000 kinds of objects (Li et al., CVPR 2020)."""

from crispseg.data.datasets.objects import object_spec

TREE = """\
ROOT/
  abacus/1.jpg  abacus/1.png  ...  (a folder for each of 1,000 kinds)
"""
SPEC = object_spec(
    name="fss1000",
    title="FSS-1000",
    folders={"all": ""},
    licence="research",
    where="https://github.com/HKUSTCV/FSS-1000",
    tree=TREE,
)
