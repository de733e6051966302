"""Recipes: every mistake is one line that says where; the documentation has every key."""

from __future__ import annotations

import os
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch

from crispseg.data.datasets import DATASETS
from crispseg.models.build import build_segmentation
from crispseg.train.config import MAY_CHANGE, TrainConfig, read_config, recipe_text
from crispseg.types import InputError

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
PAGE = ROOT / "docs" / "training.md"
NAMES = [field.name for field in fields(TrainConfig)]


def write(folder: Path, *lines: str) -> Path:
    path = folder / "r.toml"
    path.write_text("\n".join(['model = "m"', 'data = "d"', 'output = "o"', *lines]) + "\n")
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_read_and_written_again(path, tmp_path) -> None:
    config = read_config(path)
    copy = tmp_path / "copy.toml"
    copy.write_text(recipe_text(config))
    assert read_config(copy) == config


def test_the_papers_recipes_are_the_papers() -> None:
    common = {
        "model": "cascadepsp-resnet50",
        "crop_size": 224,
        "optimiser": "adam",
        "weight_decay": 1e-4,
        "schedule": "step",
        "local_step_share": 0.0,
        "coarse": "paper",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "ema_decay": 0.0,
        "trunk_factor": 1.0,
        "gradient_clip": 0.0,
        "warmup": 0,
    }
    own = {
        "60k": {
            "iterations": 60_000,
            "batch_size": 9,
            "learning_rate": 3e-4,
            "milestones": (30_000,),
        },
        "45k": {
            "iterations": 45_000,
            "batch_size": 12,
            "learning_rate": 2.25e-4,
            "milestones": (22_500, 37_500),
        },
    }
    for name, values in own.items():
        config = read_config(ROOT / "recipes" / f"cascadepsp-resnet50-{name}.toml")
        for key, value in (common | values).items():
            assert getattr(config, key) == value, (name, key)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("batch_size = 0", "line 4: batch_size = 0 is out of range"),
        ("crop_size = 100", "line 4: crop_size = 100 is out of range"),
        ("workers = -1", "line 4: workers = -1 is out of range"),
        ("std = [1, 0, 1]", "line 4: std = .* is out of range"),
        ('batch_size = "2"', "line 4: batch_size must be of type int, not '2'"),
        ("batch_size = true", "must be of type int"),
        ("learning_rate = nan", "must be finite"),
        ("mean = [1.0, 2.0]", "three numbers"),
        ("mean = [1.0, 2.0, '3']", "mean must be of type float, not '3'"),
        ("milestones = 5", "must be a list of int"),
        ("milestones = [5]", "line 4: milestones = .* is out of range"),
        (
            'optimiser = "lamb"',
            "line 4: optimiser must be one of 'adamw', 'adam', 'sgd', not 'lamb'",
        ),
        ("rotation = 5.0", "line 4: rotation is for segmentation networks"),
        ("precision = [1]", "precision must be one of"),
        ("batch = 3", "line 4: unknown key 'batch'"),
        ("batch_size = ", "not a valid TOML"),
    ],
)
def test_mistakes_in_recipes_name_the_line(line, message, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        read_config(write(tmp_path, line))


def test_schedule_step_needs_milestones_in_order(tmp_path) -> None:
    for milestones in ("[]", "[9, 5]", "[5, 5]"):
        path = write(tmp_path, "iterations = 9", 'schedule = "step"', f"milestones = {milestones}")
        with pytest.raises(InputError, match="milestones"):
            read_config(path)


def test_a_recipe_needs_an_end_and_its_keys(tmp_path) -> None:
    with pytest.raises(InputError, match="iterations"):
        read_config(write(tmp_path))
    recipe = tmp_path / "short.toml"
    recipe.write_text("iterations = 5\n")
    with pytest.raises(InputError, match="missing key 'model'"):
        read_config(recipe)
    with pytest.raises(InputError, match="cannot read recipe"):
        read_config(tmp_path / "none.toml")


def test_changes_go_before_the_file(tmp_path) -> None:
    path = write(tmp_path, "iterations = 5", "batch_size = 3")
    changes = [
        *("batch_size=4", "output = other/folder", 'device="cpu"', "mean=[0, 0.5, 1]"),
        *("tensorboard=true", "without=['a', 'b']", "learning_rate=1e-5"),
    ]
    config = read_config(path, changes)
    assert (config.batch_size, config.output, config.device) == (4, "other/folder", "cpu")
    assert config.mean == (0.0, 0.5, 1.0)
    assert (config.tensorboard, config.without) == (True, ("a", "b"))
    assert config.learning_rate == 1e-5
    assert config.iterations == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("batch_size", "--set takes key=value, not 'batch_size'"),
        ("=3", "--set takes key=value"),
        ("batch=3", "--set batch: unknown key 'batch'"),
        ("batch_size=many", "--set batch_size: batch_size must be of type int, not 'many'"),
        ("batch_size=0", "--set batch_size: batch_size = 0 is out of range"),
        ("optimiser=lamb", "--set optimiser: optimiser must be one of"),
    ],
)
def test_mistakes_in_changes_are_named(change, message, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        read_config(write(tmp_path, "iterations = 5"), [change])


def test_keys_that_may_change_are_keys() -> None:
    assert set(NAMES) >= MAY_CHANGE


def test_the_documentation_has_every_key() -> None:
    """The table in docs/training.md is the docstring; CRISPSEG_UPDATE_DOCS=1 renews it."""
    text = " ".join((TrainConfig.__doc__ or "").split("Attributes:")[1].split())
    starts = [re.search(rf"(?<![\w`]){name}: ", text).start() for name in NAMES]
    assert starts == sorted(starts)
    lines = [
        line
        for kind in ({}, {"dataset": "camvid"}, {"dataset": "camvid", "segmenter": "camvid"})
        for line in recipe_text(TrainConfig(model="", data="", output="", **kind))
        .replace('"camvid"', '""')
        .splitlines()
    ]
    defaults = {"dataset": '""'} | dict(line.split(" = ", 1) for line in lines)
    rows = ["| key | default | meaning | may change on resuming |", "|---|---|---|---|"]
    for field, start, end in zip(fields(TrainConfig), starts, [*starts[1:], None], strict=True):
        meaning = text[start:end].partition(": ")[2].strip().replace("``", "`").rstrip(".")
        shown = "must be given" if field.default is MISSING else f"`{defaults[field.name]}`"
        yes = "yes" if field.name in MAY_CHANGE else ""
        rows.append(f"| `{field.name}` | {shown} | {meaning} | {yes} |")
    page = PAGE.read_text(encoding="utf-8")
    begin, end = "<!-- keys: written by tests/train/test_config.py -->\n", "<!-- end of keys -->"
    before, _, rest = page.partition(begin)
    table = "\n".join(rows) + "\n"
    expected = before + begin + table + end + rest.partition(end)[2]
    if os.environ.get("CRISPSEG_UPDATE_DOCS"):
        PAGE.write_text(expected, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == expected


# Number of classes, from the papers.
CLASSES = {
    **{"camvid": 11, "voc2012": 21, "ade20k": 150, "cityscapes": 19, "nyudv2": 40},
    **{"pascal-context": 60, "sunrgbd": 37, "person-part": 7},
}
SEGMENTERS = [
    path for path in RECIPES if read_config(path).dataset and not read_config(path).segmenter
]


@pytest.mark.parametrize("path", SEGMENTERS, ids=lambda path: path.stem)
def test_every_segmentation_recipe_builds(path) -> None:
    config = read_config(path)
    with torch.device("meta"):
        module = build_segmentation(config.model, CLASSES[config.dataset])
    assert module.num_classes == CLASSES[config.dataset]
    if config.output_stride:
        module.set_output_stride(config.output_stride)
        assert module.trunk.output_stride == config.output_stride


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_names_a_data_set_and_splits_that_it_has(path) -> None:
    config = read_config(path)
    if config.dataset:
        spec = DATASETS[config.dataset]
        assert {config.train_split, config.validate_split} <= set(spec.splits)


def test_the_papers_segmentation_recipes_are_the_papers() -> None:
    """PSPNet section 5, DeepLabv3 section 4.1, RefineNet's released code."""
    pspnet = {"ade20k": (473, 150_000), "voc": (473, 30_000), "cityscapes": (713, 90_000)}
    for name, (crop, steps) in pspnet.items():
        config = read_config(ROOT / "recipes" / f"{name}-pspnet-resnet50.toml")
        assert (config.crop_size, config.iterations, 8 * config.batch_size) == (crop, steps, 16)
        trunk_rate = config.learning_rate * config.trunk_factor
        assert trunk_rate == pytest.approx(0.01)
        assert (config.schedule, config.weight_decay, config.aux_weight) == ("poly", 1e-4, 0.4)
        assert (config.rotation, config.blur, config.sync_bn) == (10.0, True, True)
    first, second = (
        read_config(ROOT / "recipes" / f"voc-deeplabv3-resnet50-stage{n}.toml") for n in (1, 2)
    )
    for config, stride, rate, frozen in ((first, 16, 0.007, False), (second, 8, 0.001, True)):
        assert (config.output_stride, config.learning_rate) == (stride, rate)
        assert (config.freeze_bn, config.crop_size, config.iterations) == (frozen, 513, 30_000)
    refinenet = read_config(ROOT / "recipes" / "nyudv2-refinenet-resnet101.toml")
    assert (refinenet.crop_size, refinenet.learning_rate, refinenet.batch_size) == (400, 5e-4, 1)
    assert refinenet.sampling == "balanced"


def test_magnets_recipes_are_the_papers() -> None:
    """Section 4: 50 epochs in batches of 16, a tenth of the rate after 20, 30, 40 and 45."""
    for name, images in {"cityscapes": 2975, "deepglobe": 454, "gleason": 195}.items():
        config = read_config(ROOT / "recipes" / f"magnet-{name}.toml")
        epoch = images / config.batch_size
        assert (config.batch_size, config.optimiser, config.learning_rate) == (16, "sgd", 1e-3)
        assert config.iterations == pytest.approx(50 * epoch, abs=1)
        assert config.milestones == pytest.approx([n * epoch for n in (20, 30, 40, 45)], abs=1)
        assert config.weight_decay == 5e-4


def test_keys_of_the_other_task_are_mistakes(tmp_path) -> None:
    path = write(tmp_path, "iterations = 5", 'dataset = "camvid"', 'coarse = "paper"')
    with pytest.raises(InputError, match="line 6: coarse is for refiners"):
        read_config(path)
    with pytest.raises(InputError, match="--set blur: blur is for segmentation networks"):
        read_config(write(tmp_path, "iterations = 5"), ["blur=true"])
    path = write(tmp_path, "iterations = 5", 'dataset = "camvid"', "scales = [2.0, 1.0]")
    with pytest.raises(InputError, match=r"line 6: scales = .* is out of range"):
        read_config(path)
    path = write(tmp_path, "iterations = 5", 'dataset = "camvid"', "crop_size = 473")
    assert read_config(path).crop_size == 473
