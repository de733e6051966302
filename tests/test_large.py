"""Large files, end to end: the in-memory refiner's bits, resumed after anything."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import PIL.Image
import pytest
import rasterio
import tifffile
import torch
from rasterio import Affine

import crispseg.large
from crispseg.io import write_mask
from crispseg.io.journal import RunFolder, fingerprint, honest, run_folder
from crispseg.io.sinks import BandWriter
from crispseg.large import Job, is_large, refine_large
from crispseg.models.build import build
from crispseg.models.cascadepsp import CascadeLogits, RefinementModule
from crispseg.models.weights import LoadedModel
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.runtime.memory import (
    LEAN,
    Need,
    Plan,
    parse_bytes,
    plan_run,
)
from crispseg.tiling.bilinear import bilinear_window
from crispseg.types import Box, InputError, Size

SIZE = Size(210, 300)
GUARD = json.dumps(
    {"constant": -0.4, "log_share": 0.3, "log_thickness": -0.9, "certainty": 1.1, "added": 0.8}
)


class Blur(RefinementModule):
    """Mixes image and mask; makes changes of every kind, and is quick."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, image, seg, coarse_s8=None, coarse_s4=None) -> CascadeLogits:
        seg = torch.nn.functional.avg_pool2d(seg, 9, 1, 4)
        logits = 4 * seg + torch.nn.functional.avg_pool2d(image[:, :1], 13, 1, 6) * 9
        return CascadeLogits(logits, None, None, None, logits, logits)


def refiner(guard: bool = True, module=None, **options) -> CascadeRefiner:
    metadata = {"temperature": "1.3", "guard": GUARD}
    model = LoadedModel(module or Blur(), (0.5,) * 3, (0.5,) * 3, "test", "test", metadata)
    return CascadeRefiner(model, tile_size=128, device="cpu", guard=guard, **options)


def photo() -> np.ndarray:
    grain = np.random.default_rng(3).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return np.ascontiguousarray(grain.repeat(8, 0).repeat(8, 1)[: SIZE.height, : SIZE.width])


def rough() -> np.ndarray:
    rows, columns = np.mgrid[: SIZE.height, : SIZE.width]
    disc = np.hypot(rows - 90, columns - 120) < 60
    return (disc | (np.hypot(rows - 160, columns - 250) < 12)).astype(np.uint8) * 255


@pytest.fixture
def job(tmp_path: Path) -> Job:
    PIL.Image.fromarray(photo()).save(tmp_path / "photo.png")
    PIL.Image.fromarray(rough()).save(tmp_path / "mask.png")
    return Job(tmp_path / "photo.png", tmp_path / "mask.png", tmp_path / "out.png")


GRID = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500000, 0, -0.5, 4100000)}


def as_raster(path: Path, pixels: np.ndarray, **options) -> Path:
    bands = np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels[None]
    shape = {"count": len(bands), "height": SIZE.height, "width": SIZE.width}
    with rasterio.open(path, "w", driver="GTiff", dtype="uint8", **shape, **GRID, **options) as f:
        f.write(bands)
    return path


def expected(path: Path, *, binary: bool = False, roi: Box | None = None) -> bytes:
    result = refiner().run(photo(), rough(), roi=roi)
    write_mask(path, result.mask, binary=binary)
    return path.read_bytes()


def pixels_of(path: Path) -> np.ndarray:
    return np.load(path) if path.suffix == ".npy" else np.asarray(PIL.Image.open(path))


@pytest.mark.parametrize("name", ["out.png", "out.npy", "out.tif"])
@pytest.mark.parametrize("binary", [False, True])
def test_the_file_holds_the_bits_of_the_refiner_in_memory(job, name, binary) -> None:
    job = replace(job, output=job.output.with_name(name), binary=binary)
    summary = refine_large(job, refiner())
    in_memory = refiner().run(photo(), rough())
    expected(job.output.with_name("in_memory.npy" if name == "out.npy" else "m.png"), binary=binary)
    reference = job.output.with_name("in_memory.npy" if name == "out.npy" else "m.png")
    np.testing.assert_array_equal(pixels_of(job.output), pixels_of(reference))
    assert pixels_of(job.output).dtype == pixels_of(reference).dtype
    assert len(in_memory.kept) > 0  # the guard has something to say here
    assert summary.kept == in_memory.kept
    assert summary.tiles_run == len(in_memory.tiles_run)
    assert summary.changed_pixels == ((in_memory.mask > 0.5) != (rough() > 0)).sum()
    assert not run_folder(job.output).exists()


@pytest.mark.parametrize("roi", [Box(40, 50, 200, 290), Box(60, 60, 140, 170)])
def test_roi_gives_the_bits_of_the_refiner_in_memory(job, roi) -> None:
    refine_large(replace(job, roi=roi), refiner())
    expected(job.output.with_name("m.png"), roi=roi)
    np.testing.assert_array_equal(pixels_of(job.output), pixels_of(job.output.with_name("m.png")))


@pytest.mark.parametrize("value", [0, 255])
def test_empty_and_full_masks(job, value) -> None:
    PIL.Image.new("L", (SIZE.width, SIZE.height), value).save(job.mask)
    summary = refine_large(job, refiner())
    assert summary.network_runs == 0
    assert (pixels_of(job.output) == value).all()


def test_a_mask_of_lower_resolution_is_enlarged_on_the_way(job) -> None:
    small = rough()[::4, ::4]
    PIL.Image.fromarray(small).save(job.mask)
    refine_large(job, refiner())
    whole = Box(0, 0, *SIZE)
    enlarged = bilinear_window((small / np.float32(255)).astype(np.float32), SIZE, whole)
    result = refiner().refine(photo(), enlarged)
    np.testing.assert_array_equal(
        pixels_of(job.output), np.rint(result * np.float32(255)).astype(np.uint8)
    )
    PIL.Image.fromarray(small[:, :40]).save(job.mask)
    with pytest.raises(InputError, match="proportions"):
        refine_large(job, refiner())
    assert not run_folder(job.output).exists()


def test_a_raster_keeps_its_grid_and_nodata(job, tmp_path) -> None:
    pixels = photo()
    pixels[pixels == 9] = 10
    pixels[:, :90] = 9
    job = replace(
        job,
        image=as_raster(tmp_path / "photo.tif", pixels, nodata=9),
        output=tmp_path / "out.tif",
        polygons=tmp_path / "out.geojson",
    )
    refine_large(job, refiner(guard=False))
    valid = np.ones(SIZE, bool)
    valid[:, :90] = False
    result = refiner(guard=False).run(pixels, rough(), valid=valid).mask
    values = np.rint(result * np.float32(255)).astype(np.uint8)
    with tifffile.TiffFile(job.output) as file:
        page = file.pages[0]
        written = page.asarray()
        assert page.geotiff_tags["ProjectedCSTypeGeoKey"] == 32633
        assert page.tags["ModelTiepointTag"].value[3:5] == (500000, 4100000)
        assert page.nodata == 9
    np.testing.assert_array_equal(written[valid], np.where(values == 9, 8, values)[valid])
    assert (written[~valid] == 9).all()
    outlines = json.loads(job.polygons.read_text())
    assert outlines["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    x, y = outlines["features"][0]["geometry"]["coordinates"][0][0]
    assert 500000 <= x <= 500150
    assert 4099895 <= y <= 4100000


def test_outside_a_region_nothing_is_written(job, tmp_path) -> None:
    ring = [[100, 40], [250, 40], [250, 190], [100, 190], [100, 40]]
    region = tmp_path / "region.geojson"
    region.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    refine_large(replace(job, region=region), refiner())
    valid = np.zeros(SIZE, bool)
    valid[40:190, 100:250] = True
    result = refiner().run(photo(), rough(), valid=valid).mask
    np.testing.assert_array_equal(
        pixels_of(job.output), np.rint(result * np.float32(255)).astype(np.uint8)
    )


WORKER = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import crispseg.io.store as store
import test_large
from crispseg.large import Job, refine_large
from pathlib import Path
place, left = sys.argv[2], int(sys.argv[3])
def after(original, *, first):
    def wrapped(*args):
        global left
        if not first:
            original(*args)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if first:
            original(*args)
    return wrapped
if place == "before rename":
    store.put_on_disk = after(store.put_on_disk, first=False)
elif place == "after rename":
    store.sync_folder = after(store.sync_folder, first=True)
folder = Path(sys.argv[1])
job = Job(folder / "photo.png", folder / "mask.png", folder / "out.png")
refine_large(job, test_large.refiner())
"""


def worker(job: Job, place: str, count: int) -> int:
    code = WORKER.format(tests=str(Path(__file__).parent))
    arguments = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        code,
        str(job.image.parent),
        place,
        str(count),
    ]
    return subprocess.run(arguments, check=False).returncode


def test_killed_twice_it_goes_on_and_ends_with_the_same_bytes(job) -> None:
    assert worker(job, "before rename", 2) == -signal.SIGKILL
    folder = run_folder(job.output)
    before = {path: path.read_bytes() for path in folder.rglob("*.strip")}
    assert len(before) == 1
    assert not job.output.exists()
    assert worker(job, "after rename", 1) == -signal.SIGKILL
    strips = {path: path.read_bytes() for path in folder.rglob("*.strip")}
    assert len(strips) == 2
    assert before.items() <= strips.items()
    summary = refine_large(job, refiner())
    in_memory = refiner().run(photo(), rough())
    assert summary.network_runs == in_memory.network_runs
    resumed = job.output.read_bytes()
    refine_large(replace(job, output=job.output.with_name("whole.png")), refiner())
    assert job.output.with_name("whole.png").read_bytes() == resumed


def interrupted(job: Job, monkeypatch, error: BaseException) -> None:
    """Run until the second strip, where ``error`` strikes."""
    import crispseg.io.store as store

    original, left = store.put_on_disk, [2]

    def strike(file) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise error
        original(file)

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_on_disk", strike)
        refine_large(job, refiner())


def test_another_input_model_or_option_is_refused(job, monkeypatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(job, monkeypatch, KeyboardInterrupt())
    assert run_folder(job.output).is_dir()
    with pytest.raises(InputError, match=r"begun with another guard; .*--restart"):
        refine_large(job, refiner(guard=False))
    with pytest.raises(InputError, match="another device or precision"):
        refine_large(job, refiner(precision="bf16"))
    with pytest.raises(InputError, match="another tile size"):
        changed = refiner()
        changed.tile_size = 132
        refine_large(job, changed)
    torch.manual_seed(0)
    network = build("cascadepsp-lite").eval()
    other = LoadedModel(network, (0.5,) * 3, (0.5,) * 3, "test", "test")
    with pytest.raises(InputError, match="another model"):
        refine_large(job, CascadeRefiner(other, tile_size=128, device="cpu"))
    PIL.Image.fromarray(photo()[::-1].copy()).save(job.image)
    with pytest.raises(InputError, match="begun with another image"):
        refine_large(job, refiner())
    refine_large(replace(job, restart=True), refiner())
    result = refiner().refine(photo()[::-1].copy(), rough())
    np.testing.assert_array_equal(
        pixels_of(job.output), np.rint(result * np.float32(255)).astype(np.uint8)
    )


def test_a_full_disk_is_said_and_left_resumable(job, monkeypatch) -> None:
    with pytest.raises(InputError, match="no space left on the disk; free some"):
        interrupted(job, monkeypatch, OSError(28, "No space left on device"))
    assert not job.output.exists()
    refine_large(job, refiner())
    assert expected(job.output.with_name("m.png")) is not None
    np.testing.assert_array_equal(pixels_of(job.output), pixels_of(job.output.with_name("m.png")))


def test_an_image_that_changes_during_the_run_is_noticed(job, monkeypatch) -> None:
    class Changing(Blur):
        def forward(self, *args) -> CascadeLogits:
            os.utime(job.image, ns=(1, 1))
            return super().forward(*args)

    with pytest.raises(InputError, match="has changed during the run"):
        refine_large(job, refiner(module=Changing()))
    assert not job.output.exists()


def test_an_unreadable_tile_is_said_and_left_resumable(job, tmp_path) -> None:
    image = as_raster(
        tmp_path / "photo.tif",
        photo(),
        compress="deflate",
        tiled=True,
        blockxsize=64,
        blockysize=64,
    )
    job = replace(job, image=image)
    with tifffile.TiffFile(image) as file:
        offset = file.pages[0].dataoffsets[3]
    whole = image.read_bytes()
    image.write_bytes(whole[:offset] + b"x" * 60 + whole[offset + 60 :])
    with pytest.raises(InputError, match=r"photo\.tif: cannot be read"):
        refine_large(job, refiner())
    assert not job.output.exists()


def test_two_processes_on_one_output(job) -> None:
    with (
        RunFolder(job.output, {}, restart=False),
        pytest.raises(InputError, match="another process is at work"),
    ):
        refine_large(job, refiner())
    refine_large(job, refiner())


def test_a_full_disk_is_named_even_where_the_folder_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise OSError(errno.EBUSY, "busy")

    output = tmp_path / "out.tif"
    monkeypatch.setattr("os.rmdir", busy)
    with (
        pytest.raises(InputError, match="no space left on the disk"),
        honest(output),
        RunFolder(output, {}, restart=False),
    ):
        raise OSError(errno.ENOSPC, "full")


def test_fingerprints_tell_files_apart(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    first = fingerprint(tmp_path / "a")
    assert fingerprint(tmp_path / "a") == first
    status = (tmp_path / "a").stat()
    (tmp_path / "a").write_bytes(b"y" * 10)
    os.utime(tmp_path / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint(tmp_path / "a") != first
    with pytest.raises(InputError, match="no such file"):
        fingerprint(tmp_path / "b")


def test_budgets() -> None:
    assert parse_bytes("2G") == parse_bytes("2048 MiB") == 2 << 30
    assert parse_bytes("1.5g") == 3 << 29
    for text in ("", "2X", "-1G", "G"):
        with pytest.raises(InputError, match="write 2G or 800M"):
            parse_bytes(text)
    need = Need("cascadepsp-lite", 3_000_000, 900, 8192)
    ample, tight = Plan(2).bytes_for(need), LEAN.bytes_for(need)
    assert plan_run(None, need, 2) == plan_run(ample, need, 2) == Plan(2)
    assert plan_run(ample - 1, need, 2).at_once == 2  # smaller caches first
    assert plan_run(tight, need, 2) == LEAN
    with pytest.raises(InputError, match="--tile-size") as refusal:
        plan_run(tight - 1, need, 2)
    side = int(str(refusal.value).split("--tile-size ")[1].split()[0])
    assert LEAN.bytes_for(replace(need, tile_size=side)) < tight
    with pytest.raises(InputError, match="give --memory"):
        plan_run(1 << 20, need, 1)
    assert LEAN.bytes_for(replace(need, width=1 << 16)) == tight  # the network's run is the most


@pytest.mark.parametrize("workers", [1, 3])
def test_no_budget_and_no_number_of_workers_changes_a_bit(job, monkeypatch, workers) -> None:
    """Also where windows and caches are so small that every strip has many."""
    refine_large(job, refiner())
    for plan in (Plan(), LEAN, Plan(window_px=700, cache_bytes=1 << 12)):
        monkeypatch.setattr(
            crispseg.large,
            "plan_run",
            lambda _, need, at_once, plan=plan: replace(plan, at_once=at_once),
        )
        other = replace(job, output=job.output.with_name("other.png"))
        refine_large(other, refiner(workers=workers))
        assert other.output.read_bytes() == job.output.read_bytes()


def test_a_budget_that_is_too_small_is_refused_before_anything_is_run(job) -> None:
    with pytest.raises(InputError, match="--memory 100M is not enough"):
        refine_large(replace(job, memory=100 << 20), refiner())
    assert not run_folder(job.output).exists()


def test_published_mode_and_other_outputs_are_refused(job) -> None:
    with pytest.raises(InputError, match=r"\.png, \.tif"):
        refine_large(replace(job, output=job.output.with_suffix(".jpg")), refiner())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a peak of memory")
def test_the_peak_of_memory_can_begin_anew() -> None:
    """In a process of its own: what tests before have freed is given back in its own time."""
    script = """
from crispseg.runtime.memory import forget_peak, peak_mib
held = bytearray(200 << 20)
high = peak_mib()
del held
print(high, forget_peak(), peak_mib())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    high, forgot, left = done.stdout.split()
    assert forgot == "True"
    assert float(left) <= float(high) - 150


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps memory")
def test_freed_memory_is_used_again_or_given_back() -> None:
    """Pages that the system had to find for twenty arrays in turn; what is held afterwards."""
    script = """
import resource
from crispseg.runtime.memory import (
    give_back_freed_memory, give_back_unused_memory, keep_freed_memory
)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytearray(b"x") * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
give_back_freed_memory()
print(faults())
keep_freed_memory()
print(faults())
def resident_mib():
    pages = open("/proc/self/statm").read().split()[1]
    return int(pages) * resource.getpagesize() >> 20
print(resident_mib())
give_back_unused_memory()
print(resident_mib())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    given_back, kept, held, left = map(int, done.stdout.split())
    assert kept < given_back / 5
    assert left < held - 50


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf")])
def test_an_impossible_tolerance_is_refused_before_anything_is_run(tolerance: float) -> None:
    with pytest.raises(InputError, match="tolerance must be 0 pixels or more"):
        Job(Path("a.png"), Path("m.png"), Path("o.png"), tolerance_px=tolerance)


@pytest.mark.parametrize("name", ["out.png", "out.npy"])
def test_tall_pictures_with_an_object_on_one_side_come_to_an_end(tmp_path, name) -> None:
    """More than one band of rows, of which some columns are flat: it went on for ever."""
    image, mask = np.full((600, 700, 3), 20, np.uint8), np.zeros((600, 700), np.uint8)
    mask[100:200, 10:70] = 255
    image[mask > 0] = 200
    for pixels, file in ((image, "i.png"), (mask, "m.png")):
        PIL.Image.fromarray(pixels).save(tmp_path / file)
    refine_large(Job(tmp_path / "i.png", tmp_path / "m.png", tmp_path / name), refiner())
    write_mask(tmp_path / f"in_memory_{name}", refiner().run(image, mask).mask)
    wanted = pixels_of(tmp_path / f"in_memory_{name}")
    np.testing.assert_array_equal(pixels_of(tmp_path / name), wanted)


@pytest.mark.parametrize("size", [(16, 4000), (16, 1000), (4000, 16), (8, 900), (40, 2500)])
def test_long_pictures_are_as_in_memory(tmp_path, size) -> None:
    """First looks that are longer than a tile, or at all of it, or that show nothing."""
    grain = np.random.default_rng(5).integers(0, 256, (5, 500, 3), dtype=np.uint8)
    image = grain.repeat(8, 0).repeat(8, 1)[: min(size), : max(size)]
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[min(size) // 4 : -min(size) // 4, 100:700] = 255
    if size[0] > size[1]:
        image, mask = image.swapaxes(0, 1), mask.T
    for pixels, file in ((image, "i.png"), (mask, "m.png")):
        PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / file)
    refine_large(Job(tmp_path / "i.png", tmp_path / "m.png", tmp_path / "o.npy"), refiner())
    write_mask(tmp_path / "m.npy", refiner().run(image, mask).mask)
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), np.load(tmp_path / "m.npy"))


def test_parts_of_rows_stay_in_one_band() -> None:
    writer = BandWriter(Mock(), Size(1100, 40), "u1")
    with pytest.raises(ValueError, match="more than one band"):
        writer.write(Box(0, 0, 600, 20), np.zeros((600, 20), np.uint8))


@pytest.mark.parametrize("options", [{"memory": 1 << 30}, {"restart": True}, {}])
def test_a_limit_of_pixels_holds_however_a_run_is_asked_for(job, options) -> None:
    asked = replace(job, **options)
    assert is_large(asked, max_pixels=None) == bool(options)
    assert not is_large(asked, max_pixels=SIZE.height * SIZE.width - 1)
