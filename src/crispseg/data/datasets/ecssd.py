"""ECSSD: 1,000 photos with salient objects (Shi et al., PAMI 2016)."""

from crispseg.data.datasets.objects import object_spec

TREE = """\
ROOT/
  images/*.jpg  ground_truth_mask/*.png
"""
SPEC = object_spec(
    name="ecssd",
    title="ECSSD",
    folders={"all": ""},
    licence="not stated",
    where="https://www.cse.cuhk.edu.hk/leojia/projects/hsaliency/dataset.html",
    tree=TREE,
)
