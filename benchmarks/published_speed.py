"""How much sooner crispseg answers than PyPI's segmentation-refinement 0.6, on a CPU.

    .venv/bin/python benchmarks/published_speed.py --tile                # one local tile
    .venv/bin/python benchmarks/published_speed.py --size 3492x2328        # the whole procedure

The package and the full network here have the same weights: those of ``--weights``, or random ones,
except that one channel carries the given mask from the stem to the logits of all heads
(``follow_the_mask``), with noise from all the others. Without that, what is left out would mean
nothing: the package skips tiles by what its global step found, and crispseg decodes only where
stride 8 is not sure. So all results are about the given mask, as they are with trained weights.

The photo is the demo's, enlarged to ``--size``, with its rough mask. Sides take turns in one
process; the package takes minutes for a photo. Wall and processor seconds are both
given, as medians: on a machine that is also busy with something else the second is the better one.
Prints one row a side, and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import crispseg
from crispseg.models.build import build
from crispseg.models.cascadepsp import RefinementModule
from crispseg.models.weights import PUBLISHED_NAMES, LoadedModel, load_model
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.refiners.network import CascadeNetwork

ASSETS = Path(crispseg.__file__).parent / "cli" / "assets"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEED_CHANNEL = 3  # of the stem's input: the given mask
LOGIT, NOISE = 6.0, 0.02


def random_network() -> RefinementModule:
    """Weights as trained ones are in size, norms that are not the identity."""
    torch.manual_seed(0)
    module = build("cascadepsp-resnet50").eval()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.2)
                layer.running_var.uniform_(0.5, 1.5)
                layer.weight.uniform_(0.5, 1.2)
                layer.bias.normal_(0, 0.2)
        follow_the_mask(module)
    return module


def follow_the_mask(module: RefinementModule) -> None:
    """Channel 0 of all features carries the given mask to every head; no other reads it there."""
    carry(module.trunk.conv1, SEED_CHANNEL)
    plain_norm(module.trunk.bn1, 0, shift=1.0)  # 0 or 2: survives ReLUs
    for name in ("layer1", "layer2", "layer3", "layer4"):
        for block in module.trunk.get_submodule(name):
            plain_norm(block.bn3, 0, scale=0.0)
            if isinstance(block.downsample, nn.Sequential):
                carry(block.downsample[0], 0)
                plain_norm(block.downsample[1], 0)
    features = module.bottleneck.in_channels - module.trunk.channels[-1]
    carry(module.bottleneck, features)
    joined = module.up_2.shortcut.in_channels  # where the stem's channels begin
    norm, _, first, middle, _, second = module.up_2.conv
    plain_norm(norm, joined, shift=1.0)
    plain_norm(middle, 0)
    carry(first, joined)
    carry(second, 0)
    for up in (module.up_1, module.up_3):
        silence(up.conv[-1])
    for up in (module.up_1, module.up_2, module.up_3):
        silence(up.conv2[-1])
    silence(module.up_2.shortcut)
    carry(module.up_1.shortcut, 0)
    carry(module.up_3.shortcut, 0)
    for hidden, _, last in (module.head_s8, module.head_s4, module.head_s1):
        carry(hidden, 0)
        last.weight *= NOISE
        last.weight[0, 0], last.bias[0] = LOGIT, -LOGIT


def silence(conv: nn.Conv2d) -> None:
    """Output 0 is 0."""
    conv.weight[0] = 0
    if conv.bias is not None:
        conv.bias[0] = 0


def carry(conv: nn.Conv2d, source: int) -> None:
    """Output 0 is one of the inputs."""
    silence(conv)
    conv.weight[0, source, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = 1


def plain_norm(
    norm: nn.BatchNorm2d, channel: int, *, scale: float = 1.0, shift: float = 0.0
) -> None:
    """A channel comes out ``scale`` times as large, and ``shift`` larger."""
    norm.running_mean[channel], norm.running_var[channel] = 0, 1 - norm.eps
    norm.weight[channel], norm.bias[channel] = scale, shift


def write_for_package(module: RefinementModule, folder: Path) -> None:
    """Our weights as the file that the package reads its own from."""
    names = {new: old for old, new in PUBLISHED_NAMES.items()}
    state = {}
    for key, value in module.state_dict().items():
        new = next((n for n in sorted(names, key=len, reverse=True) if key.startswith(n)), "")
        state["module." + names.get(new, "") + key.removeprefix(new)] = value
    torch.save(state, folder / "model")


def package_refiner(folder: Path):
    """The package's own refiner with the weights of ``write_for_package``."""
    import segmentation_refinement

    return segmentation_refinement.Refiner(
        device="cpu", model_folder=str(folder), download_and_check_model=False
    )


def package_with(module: RefinementModule):
    """The package's own refiner with our weights."""
    with tempfile.TemporaryDirectory() as folder:
        write_for_package(module, Path(folder))
        return package_refiner(Path(folder))


def photo(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The demo's photo and rough mask at (width, height)."""
    with Image.open(ASSETS / "photo.jpg") as file:
        image = np.asarray(file.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    with Image.open(ASSETS / "rough.png") as file:
        mask = np.asarray(file.convert("L").resize(size, Image.Resampling.BICUBIC)) > 127
    return image, mask


def tile_sides(module: RefinementModule, side: int) -> dict[str, Callable[[], np.ndarray]]:
    """One local tile: two levels of the cascade; (side, side) probabilities."""
    from segmentation_refinement.eval_helper import safe_forward

    image, mask = photo((side, side))
    soft = mask.astype(np.float32) * 1.8 - 0.9
    package = package_with(module).model

    def network(model: LoadedModel, **options: object) -> Callable[[], np.ndarray]:
        net = CascadeNetwork(model, torch.device("cpu"), **options)
        pixels = net.image_tensor(image, 255)
        return lambda: net.probabilities([pixels], [[np.sign(soft), soft]])[0][0]

    full = LoadedModel(module, MEAN, STD, architecture="cascadepsp-resnet50", source="random")
    pixels = CascadeNetwork(full, torch.device("cpu"), published=True).image_tensor(image, 255)
    masks = [torch.from_numpy(m)[None, None] for m in (np.sign(soft), soft)]

    @torch.no_grad()
    def theirs() -> np.ndarray:
        return safe_forward(package, pixels, *masks)["pred_224"][0, 0].numpy()

    return {
        "package": theirs,
        "full, plain": network(full, published=True),
        "full, exact": network(full, published=True, precision="exact"),
        "full, auto": network(full, published=False, precision="auto"),
        "lite": network(load_model("cascadepsp-lite"), published=False, precision="auto"),
    }


def photo_sides(
    module: RefinementModule, size: tuple[int, int]
) -> dict[str, Callable[[], np.ndarray]]:
    """The whole procedure, array to array; probabilities of the package are cut to 8 bits."""
    image, mask = photo(size)
    package = package_with(module)
    grey = mask.astype(np.uint8) * 255

    def refiner(model: LoadedModel, **options: object) -> Callable[[], np.ndarray]:
        refine = CascadeRefiner(model, device="cpu", **options).run

        def run() -> np.ndarray:
            found = refine(image, mask)
            print(
                f"    {found.tiles_planned} tiles; {found.network_runs} passes with the global one"
            )
            return found.mask

        return run

    full = LoadedModel(module, MEAN, STD, architecture="cascadepsp-resnet50", source="random")
    return {
        "package": lambda: (package.refine(image, grey) + np.float32(0.5)) / 255,
        "full, published, exact": refiner(full, mode="published", precision="exact"),
        "full, published, auto": refiner(full, mode="published", precision="auto"),
        "full, default mode": refiner(full),
        "lite, default mode": refiner(load_model("cascadepsp-lite")),
    }


def measure(sides: dict[str, Callable[[], np.ndarray]], rounds: int) -> list[dict[str, object]]:
    """Every side in every round; medians, and how far results are from the first side's."""
    wall = {name: [] for name in sides}
    cpu = {name: [] for name in sides}
    results = {}
    for _ in range(rounds):
        for name, run in sides.items():
            start, busy = time.perf_counter(), time.process_time()
            results[name] = run()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - busy)
            print(f"  {name}: {wall[name][-1]:.1f} s, processor {cpu[name][-1]:.1f} s", flush=True)
    first, *_ = sides
    rows = []
    for name, result in results.items():
        seconds, busy = statistics.median(wall[name]), statistics.median(cpu[name])
        rows.append(
            {
                "side": name,
                "seconds": round(seconds, 2),
                "times_faster": round(statistics.median(wall[first]) / seconds, 2),
                "times_less_processor": round(statistics.median(cpu[first]) / busy, 2),
                "masks_differ": float(((result > 0.5) != (results[first] > 0.5)).mean()),
                "largest_difference": float(np.abs(result - results[first]).max()),
            }
        )
    return rows


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="3492x2328", help="width x height of the photo")
    parser.add_argument("--tile", action="store_true", help="one local tile only")
    parser.add_argument("--side", type=int, default=900, help="side of that tile")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--weights", type=Path, help="of the full network, instead of random ones")
    parser.add_argument("--only", help="sides beside the package, separated by ;")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    width, _, height = options.size.partition("x")
    module = load_model(options.weights).module if options.weights else random_network()
    sides = (
        tile_sides(module, options.side)
        if options.tile
        else photo_sides(module, (int(width), int(height)))
    )
    if options.only:
        wanted = ["package", *options.only.split(";")]
        sides = {name: run for name, run in sides.items() if name in wanted}
    rows = measure(sides, options.rounds)
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    what = "tile" if options.tile else options.size
    print(json.dumps({"what": what, "threads": options.threads, "rows": rows}))


if __name__ == "__main__":
    main()
