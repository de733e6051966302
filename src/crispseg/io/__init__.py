"""Files <-> arrays: photos, masks, and outputs that appear complete or not at all."""

from crispseg.io.atomic import atomic_path
from crispseg.io.decode import DEFAULT_MAX_PIXELS
from crispseg.io.encode import LABEL_SUFFIXES, array_file, write_labels
from crispseg.io.image import IMAGE_SUFFIXES, image_size, read_image, write_image
from crispseg.io.mask import MASK_SUFFIXES, check_output, mask_size, read_mask, write_mask

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "IMAGE_SUFFIXES",
    "LABEL_SUFFIXES",
    "MASK_SUFFIXES",
    "array_file",
    "atomic_path",
    "check_output",
    "image_size",
    "mask_size",
    "read_image",
    "read_mask",
    "write_image",
    "write_labels",
    "write_mask",
]
