"""PSPNet and DeepLabv3 on ResNet-50 against torchvision's DeepLabv3 in float32, as it is written.

    .venv/bin/python benchmarks/segmenter_speed.py [--height 1024 --width 2048] [--rounds 3]
        [--precision auto] [--levers] [--weights FILE --image FILE]

DeepLabv3 has torchvision's weights, and so its labels are compared; PSPNet has the paper's form and
random weights. Without ``--weights`` (a state dict of torchvision's ``deeplabv3_resnet50``) those
of DeepLabv3 are random too, with BatchNorm statistics of real passes, so that the layers are as
large as trained ones. But then no class is likelier than another by much: 16 bits change one label
in ten, and few in a trained network. ``--image`` is a photo, enlarged. Both sides go from a
normalised image to labels, in turn; each of our times is divided by torchvision's. ``--levers``
adds DeepLabv3 in steps: as it is written without the auxiliary head, compiled with direct
convolutions, compiled with Winograd's. At 1024x2048 a round takes minutes on two cores. Prints one
JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3_resnet50

from crispseg.models.build import build_segmentation
from crispseg.models.published import from_torchvision
from crispseg.models.segmentation import SegmentationModule
from crispseg.runtime.arithmetic import Arithmetic
from crispseg.runtime.precision import DIRECT, EXACT, choose
from crispseg.runtime.segmenting import SegmentationForm, compile_segmentation

CLASSES = 19


def settled(module: nn.Module) -> nn.Module:
    """BatchNorm statistics from two passes over noise; every class likely somewhere."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of all passes
    module.train()
    with torch.no_grad():
        for seed in range(2):
            module(torch.cat([photo(193, 193, seed), photo(193, 193, seed + 9)]))
    return module.eval()


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth shapes and noise, about as normalised photos are."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(1, 3, 12, 24, generator=generator)
    smooth = nn.functional.interpolate(small, (height, width), mode="bicubic", align_corners=False)
    return smooth + 0.2 * torch.randn(1, 3, height, width, generator=generator)


def picture(path: Path, height: int, width: int) -> Tensor:
    """A photo as torchvision's networks want it."""
    with Image.open(path) as file:
        pixels = np.array(file.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    return ((torch.from_numpy(pixels) / 255 - mean) / std).permute(2, 0, 1)[None]


def spread(classifier: nn.Conv2d, logits: Tensor) -> None:
    """Shift the classes to one mean, so that arg-max has something to choose from."""
    classifier.bias.data -= logits.mean(dim=(0, 2, 3))


@torch.inference_mode()
def prepared(weights: Path | None) -> tuple[nn.Module, SegmentationModule, SegmentationModule]:
    """torchvision's network, ours with its weights, and PSPNet."""
    torch.manual_seed(0)
    state = torch.load(weights, weights_only=True) if weights else {}
    classes = len(state["classifier.4.bias"]) if weights else CLASSES
    theirs = deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=classes, aux_loss=True
    )
    if weights:
        theirs.eval().load_state_dict(state)
    else:
        spread(settled(theirs).classifier[-1], theirs(photo(193, 193))["out"])
    ours = build_segmentation("deeplabv3-torchvision-resnet50", classes).eval()
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    pspnet = settled(build_segmentation("pspnet-resnet50", CLASSES))
    spread(pspnet.head[-1], pspnet(photo(193, 193)).logits)
    return theirs, ours, pspnet


def sides(
    precision: str, levers: bool, weights: Path | None
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Name -> from a normalised image to labels; torchvision's first."""
    theirs, ours, pspnet = prepared(weights)
    arithmetic = choose(precision, torch.device("cpu"))
    print(f"arithmetic: {arithmetic}", flush=True)
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "torchvision": lambda x: theirs(x)["out"].argmax(dim=1),
        "deeplabv3": compiled(ours, arithmetic).labels,
        "pspnet": compiled(pspnet, arithmetic).labels,
    }
    if levers:
        found["deeplabv3, as written"] = lambda x: ours(x).logits.argmax(dim=1)
        found["deeplabv3, direct"] = compiled(ours, DIRECT).labels
        found["deeplabv3, Winograd"] = compiled(ours, EXACT).labels
        found["pspnet, as written"] = lambda x: pspnet(x).logits.argmax(dim=1)
        found["pspnet, direct"] = compiled(pspnet, DIRECT).labels
    return found


def compiled(module: SegmentationModule, arithmetic: Arithmetic | None) -> SegmentationForm:
    form = compile_segmentation(module, arithmetic)
    assert form is not None
    return form


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--levers", action="store_true")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--image", type=Path)
    options = parser.parse_args()
    runs = sides(options.precision, options.levers, options.weights)
    size = (options.height, options.width)
    image = picture(options.image, *size) if options.image else photo(*size)
    # one thread: processor time, which others on the machine stretch less than the clock's
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in runs}
    labels: dict[str, Tensor] = {}
    for run in runs.values():
        run(photo(128, 256))  # first calls set up the library's kernels
    for _ in range(options.rounds):
        for name, run in runs.items():
            start = clock()
            labels[name] = run(image)
            times[name].append(clock() - start)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    equal = {
        name: float((labels[name] == labels["torchvision"]).double().mean())
        for name in runs
        if name.startswith("deeplabv3")
    }
    figures = {
        "size": [options.height, options.width],
        "threads": torch.get_num_threads(),
        "torchvision_seconds": round(seconds["torchvision"], 2),
        "times_as_fast": {n: round(seconds["torchvision"] / s, 2) for n, s in seconds.items()},
        "labels_equal": {name: round(share, 6) for name, share in equal.items()},
        "classes_seen": len(labels["torchvision"].unique()),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
