import numpy as np
import pytest

from crispseg.data.compose import bleed_colours, compose, expose

SIZE = 96


def cutout(colour: tuple[int, int, int] = (200, 30, 30)) -> np.ndarray:
    """A disc with a soft rim; black under the transparent part, as many files have it."""
    y, x = np.mgrid[:120, :120]
    alpha = np.clip(50.5 - np.hypot(y - 59.5, x - 59.5), 0, 1)
    rgba = np.zeros((120, 120, 4), np.uint8)
    rgba[..., :3][alpha > 0.95] = colour
    rgba[..., 3] = np.rint(255 * alpha)
    return rgba


def background(colour: tuple[int, int, int] = (40, 90, 160)) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = rng.integers(-15, 16, (150, 220, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def test_shapes_types_ranges_and_determinism() -> None:
    first = compose(bleed_colours(cutout()), background(), np.random.default_rng(3), SIZE)
    again = compose(bleed_colours(cutout()), background(), np.random.default_rng(3), SIZE)
    image, alpha = first
    assert image.shape == (SIZE, SIZE, 3)
    assert image.dtype == np.uint8
    assert alpha.shape == (SIZE, SIZE)
    assert alpha.dtype == np.float32
    assert alpha.min() >= 0
    assert alpha.max() <= 1
    assert np.array_equal(image, again[0])
    assert np.array_equal(alpha, again[1])


def test_truth_lies_where_the_object_is_seen() -> None:
    """Red object on blue: red minus blue must be higher inside the truth than outside."""
    right = 0
    for seed in range(20):
        image, alpha = compose(
            bleed_colours(cutout()), background(), np.random.default_rng(seed), SIZE
        )
        redness = image[..., 0].astype(float) - image[..., 2]
        inside, outside = alpha > 0.9, alpha < 0.1
        if inside.any() and outside.any():
            cut = (np.median(redness[inside]) + np.median(redness[outside])) / 2
            agree = np.concatenate([redness[inside] > cut, redness[outside] < cut])
            right += bool(agree.mean() > 0.97)
        else:
            right += 1
    assert right == 20


def test_distractors_are_in_the_picture_but_not_in_the_truth() -> None:
    green = bleed_colours(cutout((20, 220, 20)))
    seen = 0
    for seed in range(12):
        image, alpha = compose(
            bleed_colours(cutout()),
            background(),
            np.random.default_rng(seed),
            SIZE,
            distractors=[green],
        )
        greenness = image[..., 1].astype(float) - image[..., [0, 2]].max(axis=2)
        is_green = greenness > 40
        seen += is_green.any()
        assert alpha[is_green].mean() < 0.1 if is_green.sum() > 20 else True
    assert seen >= 6


def test_some_objects_are_larger_than_the_crop() -> None:
    touching = 0
    for seed in range(40):
        _, alpha = compose(bleed_colours(cutout()), background(), np.random.default_rng(seed), SIZE)
        solid = alpha > 0.5
        sides = (solid[0], solid[-1], solid[:, 0], solid[:, -1])
        touching += sum(bool(side.any()) for side in sides) >= 2
    assert 5 < touching < 35


def test_background_smaller_than_the_crop_is_enlarged() -> None:
    tiny = background()[:40, :50]
    image, _ = compose(bleed_colours(cutout()), tiny, np.random.default_rng(0), SIZE)
    assert image.shape == (SIZE, SIZE, 3)


def test_bleeding_carries_colour_under_the_soft_rim_and_keeps_alpha() -> None:
    rgba = cutout()
    before = rgba.copy()
    bled = bleed_colours(rgba)
    assert np.array_equal(rgba, before)
    assert np.array_equal(bled[..., 3], rgba[..., 3])
    rim = (rgba[..., 3] > 0) & (rgba[..., 3] < 242)
    assert rim.any()
    assert np.abs(bled[rim][:, :3].astype(int) - (200, 30, 30)).max() <= 2
    opaque = rgba[..., 3] >= 242
    assert np.array_equal(bled[opaque], rgba[opaque])


def test_pasted_edge_has_no_dark_fringe() -> None:
    """Between a light object and a light background no pixel of the rim is dark."""
    light = bleed_colours(cutout((220, 220, 220)))
    scene = np.full((150, 220, 3), 200, np.uint8)
    for seed in range(10):
        image, alpha = compose(light, scene, np.random.default_rng(seed), SIZE)
        rim = (alpha > 0.2) & (alpha < 0.8)
        inside, outside = image[alpha > 0.95], image[alpha < 0.05]
        if min(rim.sum(), len(inside), len(outside)) < 20:
            continue
        darker = min(np.median(inside), np.median(outside)) - np.median(image[rim])
        assert darker < 40  # a shadow at most; a black fringe is about 100 darker


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_exposure_changes_the_picture_only_moderately(dtype) -> None:
    scene = background().astype(dtype)
    changes = []
    for seed in range(20):
        out = expose(scene, np.random.default_rng(seed))
        assert out.dtype == np.uint8
        assert out.shape == scene.shape
        changes.append(np.abs(out.astype(float) - scene).mean())
    assert max(changes) < 60
    assert np.median(changes) > 1
