"""``crispseg refine`` where the image is streamed."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest

from crispseg.cli import main as cli


@pytest.fixture
def files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    mask = np.zeros((150, 200), np.uint8)
    mask[40:100, 50:120] = 255
    PIL.Image.fromarray(pixels).save(tmp_path / "photo.png")
    PIL.Image.fromarray(mask).save(tmp_path / "mask.png")
    return [str(tmp_path / "photo.png"), str(tmp_path / "mask.png")]


def test_the_streamed_mask_is_the_one_of_memory(files, tmp_path, capsys) -> None:
    reports = []
    for name, options in (("a.png", []), ("b.png", ["--memory", "4G"])):
        output = ["-o", str(tmp_path / name), "--tile-size", "128", "--json", *options]
        assert cli.run(["refine", *files, *output]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    first, second = (np.asarray(PIL.Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) > 2
    for report in reports:
        del report["seconds"], report["output"]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory", "10M"], "is not enough"),
        (["--memory", "much"], "write 2G or 800M"),
        (["--memory", "4G", "--preview", "p.png"], "refined in memory"),
        (["--memory", "4G", "--mode", "published"], "published"),
    ],
)
def test_what_cannot_be_streamed_is_refused(files, tmp_path, capsys, options, message) -> None:
    code = cli.run(["refine", *files, "-o", str(tmp_path / "o.png"), *options])
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o.png").exists()
