"""A segmenter from a name or a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from crispseg.models.segmentation import SegmentationModule
from crispseg.models.weights import load_model, read_classes
from crispseg.models.zoo import DEFAULT_SEGMENTER
from crispseg.runtime.device import resolve_device
from crispseg.runtime.precision import Precision, choose
from crispseg.runtime.segmenting import compile_segmentation, has_compiled_form
from crispseg.segmenters.base import Inference
from crispseg.segmenters.modules import ModuleNetwork
from crispseg.segmenters.network import NetworkSegmenter
from crispseg.segmenters.onnx_file import from_onnx
from crispseg.types import InputError


def load_segmenter(
    model: str | Path = DEFAULT_SEGMENTER,
    *,
    inference: Inference | None = None,
    tile_size: int | None = None,
    overlap_px: int | None = None,
    blend: Literal["smooth", "equal"] | None = None,
    scales: tuple[float, ...] | None = None,
    flip: bool | None = None,
    output_stride: int | None = None,
    device: str = "auto",
    batch_size: int = 1,
    precision: Precision = "auto",
) -> NetworkSegmenter:
    """Load a segmenter once, to use it for many images.

    Args:
        model: a name that ``crispseg models`` lists, a safetensors file that ``crispseg train``
            or ``save_weights`` wrote, or an ONNX file (see ``from_onnx``).
        inference: how to look at an image, such as ``PSPNET`` in ``crispseg.segmenters.base``;
            what follows goes before it.
        tile_size: side of the tiles in pixels; 0 for the whole image at once. Else 1024.
        overlap_px: how much tiles share; a third of a tile if None.
        blend: "smooth" (else) or "equal".
        scales: sizes relative to the image's own, to average over.
        flip: average with the mirror image.
        output_stride: run the network at this one instead of its own: 8 is finer than 16, and
            slower (DeepLabv3 only).
        device: "auto", "cpu", "cuda", "cuda:N" or "mps"; ONNX files run on the CPU.
        batch_size: most tiles in one network call.
        precision: how PSPNet and DeepLabv3 on ResNets of bottlenecks compute: "exact" or "fp32",
            "auto" (the quickest here, measured once), "bf16", "fp16", or "plain": as written.
            Other networks run as they are written, in float32.

    Raises:
        InputError: unknown model or unusable file, a refiner's weights, option out of range,
            device not there.
    """
    given: dict[str, Any] = {
        "tile_size": tile_size,
        "overlap_px": overlap_px,
        "blend": blend,
        "scales": scales,
        "flip": flip,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if tile_size == 0:
        changes["tile_size"] = None
    if Path(model).suffix.lower() == ".onnx":
        if output_stride:
            raise InputError("the output stride of an ONNX file is fixed; leave output_stride out")
        segmenter = from_onnx(model, inference=inference)
        way = replace(segmenter.inference, **changes)
        return NetworkSegmenter(segmenter.network, way, batch_size=batch_size)
    way = replace(inference or Inference(), **changes)
    network = _from_weights(model, output_stride, device, precision)
    return NetworkSegmenter(network, way, batch_size=batch_size)


def _from_weights(
    model: str | Path, output_stride: int | None, device: str, precision: Precision
) -> ModuleNetwork:
    loaded = load_model(model)
    if not isinstance(loaded.module, SegmentationModule):
        raise InputError(
            f"{loaded.source} is for {loaded.architecture}, which refines masks and names no "
            "classes; it is for `crispseg refine` and load_refiner"
        )
    if output_stride:
        try:
            loaded.module.set_output_stride(output_stride)
        except ValueError as error:
            raise InputError(f"output_stride = {output_stride}: {error}") from None
    names, colours = read_classes(loaded.metadata, loaded.source)
    form = None
    if has_compiled_form(loaded.module):
        form = compile_segmentation(loaded.module, choose(precision, resolve_device(device)))
    elif precision in ("bf16", "fp16"):
        raise InputError(f"{loaded.architecture} has no form in {precision}; leave precision out")
    return ModuleNetwork(
        form or loaded.module,
        num_classes=len(names),
        class_names=names,
        colours=colours,
        mean=loaded.mean,
        std=loaded.std,
        device=device,
        source=loaded.source,
    )
