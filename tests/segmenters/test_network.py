"""Tiles, scales and mirror images against the whole image and written-out averages."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small import CLASSES, photo, small_net
from torch.nn import functional as F

from crispseg.segmenters import base
from crispseg.segmenters.adapters import from_callable, from_module
from crispseg.segmenters.base import Inference
from crispseg.segmenters.network import NetworkSegmenter
from crispseg.types import InputError, Size

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def segmenter(num_classes: int = 4, batch_size: int = 1, **way: object) -> NetworkSegmenter:
    return from_module(
        small_net(num_classes),
        num_classes=num_classes,
        mean=MEAN,
        std=STD,
        device="cpu",
        inference=Inference(**way),
        batch_size=batch_size,
    )


def whole(image: np.ndarray, num_classes: int = 4) -> np.ndarray:
    """Softmax of the network's logits, written out."""
    pixels = torch.from_numpy(image.astype(np.float32) / np.iinfo(image.dtype).max)
    tensor = (pixels - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.inference_mode():
        logits = small_net(num_classes)(tensor.permute(2, 0, 1)[None]).logits
    return logits.softmax(dim=1)[0].numpy()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_whole_image_is_the_network_and_a_softmax(dtype) -> None:
    image = photo(60, 45, dtype=dtype)
    before = image.copy()
    result = segmenter().probabilities(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, whole(image), atol=1e-6)
    labels = segmenter().segment(image)
    assert labels.dtype == np.uint8
    assert (labels == whole(image).argmax(0)).all()
    assert len(np.unique(labels)) == 4  # or the comparison says little
    assert (image == before).all()


@pytest.mark.parametrize("size", [(70, 150), (151, 64), (97, 99), (33, 200), (64, 64), (20, 31)])
@pytest.mark.parametrize("overlap", [None, 26, 50])
def test_tiles_equal_the_whole_image(size, overlap) -> None:
    """The network sees three pixels far, and three pixels or more of a tile's rim do not count.

    The library adds in another order where a tile has another shape: up to 1e-5 of a probability.
    """
    image = photo(*size)
    tiled = segmenter(tile_size=64, overlap_px=overlap if overlap != 26 else 24)
    if overlap is None:  # 64 - 43 = 21: a margin of two is not enough for three
        tiled = segmenter(tile_size=96)
    assert tiled.inference.margin_px >= 3
    np.testing.assert_allclose(tiled.probabilities(image), whole(image), atol=2e-5)
    assert (tiled.segment(image) == whole(image).argmax(0)).mean() > 0.999  # ties to the last bit


def test_equal_weights_are_the_papers_average() -> None:
    image = photo(100, 70)
    total, count = np.zeros((4, 100, 70)), np.zeros((100, 70))
    for y in (0, 36):  # tiles of 64, stride 43: the second is shifted back
        for x in (0, 6):
            total[:, y : y + 64, x : x + 64] += whole(image[y : y + 64, x : x + 64])
            count[y : y + 64, x : x + 64] += 1
    result = segmenter(tile_size=64, blend="equal").probabilities(image)
    np.testing.assert_allclose(result, total / count, atol=1e-6)


def test_labels_are_the_largest_probabilities_to_the_bit() -> None:
    image = photo(120, 201)
    for way in ({}, {"scales": (0.75, 1.0), "flip": True}, {"blend": "equal"}):
        tiled = segmenter(tile_size=64, **way)
        assert (tiled.segment(image) == tiled.probabilities(image).argmax(0)).all()


def test_the_mirror_image_is_averaged() -> None:
    image = photo(40, 51)
    expected = (whole(image) + whole(image[:, ::-1].copy())[:, :, ::-1]) / 2
    np.testing.assert_allclose(segmenter(flip=True).probabilities(image), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(60, 90), (90, 60)])
def test_scales_are_resized_and_averaged(size) -> None:
    image = photo(*size, dtype=np.uint16)  # a value half-way between levels may go either way
    expected = np.zeros((4, *size))
    for scale in (0.5, 1.0, 1.5):
        small = (round(size[0] * scale), round(size[1] * scale))
        tensor = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
        scaled = F.interpolate(tensor, small, mode="bilinear", align_corners=False)[0]
        pixels = scaled.permute(1, 2, 0).round().numpy().astype(np.uint16)
        answer = torch.from_numpy(whole(pixels))[None]
        back = F.interpolate(answer, size, mode="bilinear", align_corners=False)
        expected += back[0].numpy() / 3
    result = segmenter(scales=(0.5, 1.0, 1.5)).probabilities(image)
    np.testing.assert_allclose(result, expected, atol=5e-4)


def test_scales_in_tiles_equal_scales_of_the_whole() -> None:
    image = photo(130, 177)
    ways = {"scales": (0.5, 1.0, 1.25), "flip": True}
    tiled = segmenter(tile_size=64, overlap_px=24, **ways).probabilities(image)
    np.testing.assert_allclose(tiled, segmenter(**ways).probabilities(image), atol=1e-5)


@pytest.mark.parametrize("way", [{}, {"scales": (0.5, 1.0)}, {"blend": "equal"}])
def test_any_batch_size_gives_the_same_bits(way) -> None:
    image = photo(150, 140)
    results = {
        segmenter(tile_size=48, batch_size=n, **way).probabilities(image).tobytes()
        for n in (1, 2, 5)
    }
    assert len(results) == 1


def test_small_images_are_padded_with_the_mean_on_request() -> None:
    seen = []

    def network(tile: np.ndarray) -> np.ndarray:
        seen.append(tile.copy())
        return np.stack([tile[:, :, 0] / 255, 1 - tile[:, :, 0] / 255])

    image = photo(30, 41)
    padded = Inference(tile_size=64, pad=True)
    result = from_callable(network, num_classes=2, mean=MEAN, inference=padded).probabilities(image)
    assert seen[0].shape == (64, 64, 3)
    assert (seen[0][17:47, 11:52] == image).all()  # centred, as in the released code
    assert seen[0][0, 0].tolist() == [102, 128, 153]
    np.testing.assert_allclose(result[0], image[:, :, 0] / 255, atol=1e-6)


def test_only_strips_are_kept() -> None:
    """What waits for neighbours is the overlap of two rows of tiles, as wide as the short side."""
    image = np.zeros((128, 2000, 3), np.uint8)
    network = small_net(19)
    held = []
    tiled = from_module(
        network, num_classes=19, device="cpu", inference=Inference(tile_size=96, overlap_px=24)
    )
    largest = 0

    def write(box, values) -> None:
        nonlocal largest
        largest = max(largest, values.size)
        held.append(box)

    tiled.run(image, write)
    covered = np.zeros(image.shape[:2], int)
    for box in held:
        covered[box.slices] += 1
    assert (covered == 1).all()
    assert largest <= 19 * 96 * 96


def test_many_classes_get_sixteen_bits() -> None:
    image = photo(40, 40)
    labels = segmenter(300).segment(image)
    assert labels.dtype == np.uint16
    assert (labels == whole(image, 300).argmax(0)).all()


def test_progress_counts_every_tile() -> None:
    seen: list[tuple[int, int]] = []
    segmenter(tile_size=64, overlap_px=0, scales=(0.5, 1.0)).segment(
        photo(128, 128), progress=lambda *a: seen.append(a)
    )
    assert seen == [(i, 5) for i in range(6)]


def test_the_papers_sizes() -> None:
    # semseg: the long side becomes round(scale * 512)
    sizes = base.PSPNET.sizes(Size(480, 640))
    assert sizes[:3] == [Size(192, 256), Size(288, 384), Size(384, 512)]
    assert (base.PSPNET.tile_size, 473 - base.PSPNET.overlap) == (473, 316)  # ceil(2/3 crop)
    assert 713 - base.PSPNET_CITYSCAPES.overlap == 476
    assert base.REFINENET.sizes(Size(300, 400))[3] == Size(450, 600)
    assert base.REFINENET.sizes(Size(1600, 2000))[3] == Size(800, 1000)
    assert base.DEEPLABV3.sizes(Size(501, 333)) == [
        Size(250, 166),
        Size(376, 250),
        Size(501, 333),
        Size(626, 416),
        Size(752, 500),
        Size(877, 583),
    ]


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ({"tile_size": 8}, "32 or more"),
        ({"tile_size": 64, "overlap_px": 64}, r"0\.\.63"),
        ({"scales": ()}, "one scale"),
        ({"scales": (float("nan"),)}, "scales must lie"),
        ({"scales": (0.0,)}, "scales must lie"),
        ({"blend": "soft"}, "smooth"),
        ({"tile_size": None, "pad": True}, "tile_size"),
        ({"short_side": (8, 4)}, "least first"),
    ],
)
def test_options_out_of_range_are_refused(way, message) -> None:
    with pytest.raises(InputError, match=message):
        Inference(**way)


def test_other_arrays_and_networks_are_refused() -> None:
    with pytest.raises(InputError, match="RGB"):
        segmenter().segment(np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="batch_size"):
        segmenter(batch_size=0)
    wrong = from_module(small_net(3), num_classes=4, device="cpu")
    with pytest.raises(InputError, match="returns 3 channels, not 4 classes"):
        wrong.segment(photo(9, 9))
    with pytest.raises(InputError, match="2 class names for 4 classes"):
        from_module(small_net(), num_classes=4, class_names=CLASSES[:2])


def test_a_network_gone_wrong_is_named() -> None:
    net = small_net()
    net.head.bias.data[:] = float("nan")
    with pytest.raises(Exception, match="NaN or infinity"):
        from_module(net, num_classes=4, device="cpu").segment(photo(9, 9))


def test_one_row_and_one_pixel() -> None:
    for size in ((1, 1), (1, 500), (300, 1)):
        image = photo(*size)
        for way in ({"tile_size": 64}, {"tile_size": 64, "scales": (0.4, 1.0, 1.75)}):
            result = segmenter(**way).probabilities(image)
            np.testing.assert_allclose(result.sum(axis=0), 1, atol=1e-5)
    assert dataclasses.is_dataclass(base.PSPNET)
