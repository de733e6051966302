"""The door between arrays and CascadePSP's network: normalise, pad, run, crop, sigmoid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import groupby
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.layers.blocks import pad_to_multiple
from crispseg.models.cascadepsp import CascadeModule
from crispseg.models.weights import LoadedModel
from crispseg.refiners.doubled import DoubledImage
from crispseg.runtime.arithmetic import Arithmetic
from crispseg.runtime.compiled import (
    CascadeForm,
    Finals,
    PlainForm,
    compile_cascade,
    is_published,
    takes_blocks,
)
from crispseg.runtime.device import best_format
from crispseg.runtime.graphs import Graphed
from crispseg.runtime.precision import DIRECT, choose
from crispseg.tiling.bilinear import bilinear_window
from crispseg.types import Box, InputError, Size

Array = NDArray[np.float32]

STRIDE = 32  # sizes that every CascadePSP network takes
RGB = 3


class CascadeNetwork:
    """CascadePSP's network on a device, for arrays.

    On the CPU every sample is a pass of its own: batches gain nothing there at this size, and
    would let the library choose another order of summation, so that the last bits of a result
    would depend on the batch.

    Args:
        model: a CascadePSP network and its preprocessing.
        device: where it runs.
        published: pad, and lay out memory, as the released package does.
        precision: see ``runtime.precision.choose``. "auto" measures for the published network;
            for others it is "exact".
        workers: on the CPU, samples that are run at the same time, each with its share of the
            cores; the same bits.
        negligible: results of ``probabilities`` this near to 0 or 1 are 0 or 1.

    Attributes:
        arithmetic: how the network computes, in words; it decides the last bits of a result.
        takes_soft: see ``CascadeModule``.

    Raises:
        InputError: another kind of network, another precision.
    """

    def __init__(
        self,
        model: LoadedModel,
        device: torch.device,
        *,
        published: bool,
        precision: str = "plain",
        workers: int = 1,
        negligible: float = 0.0,
    ) -> None:
        if not isinstance(model.module, CascadeModule):
            raise InputError(
                f"{model.source} is for {model.architecture}, which does not refine masks; "
                "networks that name classes are for `crispseg segment` and load_segmenter"
            )
        self._published = published
        self._workers = workers
        self._negligible = negligible
        self.device = device
        self.module = model.module.eval()
        self._mean = np.array(model.mean, np.float32)
        self._std = np.array(model.std, np.float32)
        self._alike = len({*model.mean}) == len({*model.std}) == 1  # normalised in one sweep
        self.takes_soft = self.module.takes_soft
        is_small = precision == "auto" and not is_published(self.module)
        chosen = choose("exact" if is_small else precision, device)
        self._everywhere = precision in ("exact", "fp32", "plain")
        self.arithmetic = str(chosen) if chosen else "as written"
        if chosen and is_published(self.module) and not self._everywhere and device.type == "cpu":
            self.arithmetic += ", decoded where open"
        self._is_half = chosen is not None and chosen.dtype is torch.float16
        self._form, self._format = self._compiled(chosen)
        self._takes_blocks = takes_blocks(self._form)
        self._pass: Callable[..., Finals] = self._form
        if device.type == "cuda" and chosen is not None:
            self._pass = Graphed(self._form)

    def _compiled(self, arithmetic: Arithmetic | None) -> tuple[CascadeForm, torch.memory_format]:
        form = compile_cascade(self.module, arithmetic, everywhere=self._everywhere)
        layout = torch.channels_last
        if isinstance(form, PlainForm):
            plain = self._published and arithmetic is None
            layout = torch.contiguous_format if plain else best_format(self.module)
            form.to(memory_format=layout)
        return cast(CascadeForm, cast(nn.Module, form).to(self.device)), layout

    def _finite(self, found: Finals, again: Callable[[CascadeForm], Finals]) -> Finals:
        """What was found; if float16 was too small for it, what float32 finds instead."""
        if not self._is_half or all(bool(x.isfinite().all()) for x in found):
            return found
        return again(self._in_float32)

    @cached_property
    def _in_float32(self) -> CascadeForm:
        return self._compiled(DIRECT)[0]

    def image_tensor(self, image: NDArray[np.generic], peak: float) -> Tensor:
        """(h, w, 3) in 0..``peak`` -> (1, 3, h, w) float32, normalised, channels last; a CPU's."""
        result = _channels_last(Size(*image.shape[:2]))
        if self._alike:
            pixels = np.divide(image, np.float32(peak), out=result.transpose(1, 2, 0))
            pixels -= self._mean[0]
            pixels /= self._std[0]
        else:
            result[:] = self.planes(image, peak)
        return torch.from_numpy(result[None])

    def enlarged(
        self, image: NDArray[np.generic], peak: float, size: Size
    ) -> Callable[[Box], Tensor]:
        """Windows of an image at a larger ``size``, as ``probabilities`` takes them.

        Args:
            image: (h, w, 3) in 0..``peak``.
            peak: of its dtype.
            size: whole multiples of its own.
        """
        height, width = image.shape[:2]
        if self._takes_blocks and size == (2 * height, 2 * width):
            return DoubledImage(self.image_tensor(image, peak)).blocks
        planes = self.planes(image, peak)  # normalised first: fewer pixels

        def window(box: Box) -> Tensor:
            pixels = bilinear_window(planes, size, box, out=_channels_last(box.size))
            return torch.from_numpy(pixels[None])

        return window

    def planes(self, image: NDArray[np.generic], peak: float) -> Array:
        """(h, w, 3) in 0..``peak`` -> (3, h, w) float32, normalised."""
        planes = np.empty((3, *image.shape[:2]), np.float32)
        for channel in range(3):  # all at once takes four times as long
            np.divide(image[..., channel], np.float32(peak), out=planes[channel])
            planes[channel] -= self._mean[channel]
            planes[channel] /= self._std[channel]
        return planes

    @torch.inference_mode()
    def probabilities(
        self, images: Sequence[Tensor], masks: Sequence[Sequence[Array]], channels: int = 2
    ) -> list[Array]:
        """Run the cascade on samples; off the CPU, those of one size in a row are one batch.

        Args:
            images: (1, 3, h, w) normalised tensors, or what ``enlarged`` gives of them.
            masks: for each image the given mask (h, w) in [-1, 1] and, for the local step, the
                coarse result that stands for the first run's.
            channels: 2, or 1 where nobody asks for stride 4.

        Returns:
            For each sample (channels, h, w) float32 probabilities: the final ones, and those at
            stride 4.
        """
        samples = [
            (image, [torch.from_numpy(np.ascontiguousarray(m))[None, None] for m in given])
            for image, given in zip(images, masks, strict=True)
        ]
        if self.device.type == "cpu":
            if min(self._workers, len(samples)) > 1:
                return self._run_at_once(samples, channels)
            return [self._run(image, given, channels)[0] for image, given in samples]
        results: list[Array] = []
        for _, alike in groupby(samples, lambda sample: sample[0].shape):
            pixels, given = zip(*alike, strict=True)
            stacked = [torch.cat(parts) for parts in zip(*given, strict=True)]
            results += self._run(torch.cat(pixels), stacked, channels)
        return results

    @torch.inference_mode()
    def probabilities_of_masks(
        self, image: Tensor, masks: Sequence[Array], boxes: Sequence[Box]
    ) -> list[Array]:
        """The last level of the cascade for many masks of one image, which is encoded once.

        A given mask stands for the results of the first levels, as the coarse result does in the
        local step (section 3.2). It is decoded in its box only, from features that have seen the
        whole image.

        Args:
            image: (1, 3, h, w) normalised.
            masks: (h, w) in [-1, 1] each.
            boxes: for each mask the part to look at.

        Returns:
            For each mask the final probabilities, float32, of its box.
        """
        pixels = self._place(pad_to_multiple(image, STRIDE, 0.0))
        shared = self._form.encode_image(pixels)
        results = []
        for mask, box in zip(masks, boxes, strict=True):
            whole = torch.from_numpy(np.ascontiguousarray(mask))[None, None]
            outer = _on_stride(box)
            part = self._part(pad_to_multiple(whole, STRIDE, -1.0), outer, 1)
            features = [self._part(x, outer, pixels.shape[-2] // x.shape[-2]) for x in shared]
            found = self._form.finals(features, part, part, part)
            again = partial(_finals, pixels=pixels[..., *outer.slices], seg=part)
            found = self._finite(found, again)
            at = box.shift(-outer.y0, -outer.x0)
            results.append(found.s1[0, 0, *at.slices].sigmoid().cpu().numpy())
        return results

    def _part(self, x: Tensor, box: Box, stride: int) -> Tensor:
        """A box of features at a stride that divides its corners."""
        return self._place(x[..., *box.shrink(stride).slices])

    def _run_at_once(
        self, samples: Sequence[tuple[Tensor, Sequence[Tensor]]], channels: int
    ) -> list[Array]:
        threads = torch.get_num_threads()
        share = max(threads // self._workers, 1)
        try:
            with ThreadPoolExecutor(
                self._workers, initializer=torch.set_num_threads, initargs=(share,)
            ) as pool:
                done = pool.map(lambda sample: self._run(sample[0], sample[1], channels), samples)
                return [results[0] for results in done]
        finally:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def _run(self, image: Tensor, masks: Sequence[Tensor], channels: int) -> Array:
        height, width = masks[0].shape[-2:]
        # The image is padded with 0 after normalisation, masks with background (released code).
        is_blocks = image.shape[1] != RGB
        padded = [
            self._place(pad_to_multiple(image, 4, 0.0) if is_blocks else self._pad(image, 0.0))
        ]
        padded += [self._place(self._pad(mask, -1.0)) for mask in masks]
        found = self._finite(self._pass(*padded), lambda form: form(*padded))
        result = image.new_empty(len(image), channels, height, width, device=self.device)
        for channel, logits in enumerate(found[:channels]):
            torch.sigmoid(self._settled(logits[:, 0, :height, :width]), out=result[:, channel])
        return result.cpu().numpy()

    def _settled(self, logits: Tensor) -> Tensor:
        """Infinite where probabilities are negligible; no branches, as a mask would have."""
        if not self._negligible:
            return logits
        bound = math.log(self._negligible / (1 - self._negligible))
        high = torch.threshold(logits, bound, -math.inf).neg_()
        return torch.threshold_(high, bound, -math.inf).neg_()

    def _pad(self, x: Tensor, value: float) -> Tensor:
        height, width = x.shape[-2:]
        if self._published and (height % 8 or width % 8):
            # The package adds eight rows even if only the width does not divide by 8, and so on.
            return F.pad(x, (0, 8 - width % 8, 0, 8 - height % 8), value=value)
        return pad_to_multiple(x, 8, value)

    def _place(self, x: Tensor) -> Tensor:
        return x.to(self.device).contiguous(memory_format=self._format)


def _channels_last(size: Size) -> Array:
    """Room for (3, height, width) float32, in the layout that networks run in."""
    return np.empty((*size, 3), np.float32).transpose(2, 0, 1)


def _on_stride(box: Box) -> Box:
    """The box, enlarged to multiples of the stride."""
    y0, x0 = box.y0 // STRIDE, box.x0 // STRIDE
    y1, x1 = -(-box.y1 // STRIDE), -(-box.x1 // STRIDE)
    return Box(y0 * STRIDE, x0 * STRIDE, y1 * STRIDE, x1 * STRIDE)


def _finals(form: CascadeForm, pixels: Tensor, seg: Tensor) -> Finals:
    return form.finals(form.encode_image(pixels), seg, seg, seg)
