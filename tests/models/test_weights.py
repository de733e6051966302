from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from crispseg.models import weights, zoo
from crispseg.models.build import build
from crispseg.models.cascadepsp import CascadeModule
from crispseg.models.weights import from_published_names, load_model, save_weights
from crispseg.models.zoo import BUNDLED_FOLDER
from crispseg.types import InputError

HALF = (0.5, 0.5, 0.5)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRISPSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "user")


@pytest.fixture(scope="module")
def lite() -> nn.Module:
    torch.manual_seed(1)
    return build("cascadepsp-lite")


def small_published() -> dict[str, Tensor]:
    """A published-style state dict of the full network, tiny on disk: one value a tensor."""
    names = {new: old for old, new in weights.PUBLISHED_NAMES.items()}
    state = {}
    with torch.device("meta"):
        wanted = build("cascadepsp-resnet50").state_dict()
    for i, (key, value) in enumerate(wanted.items()):
        new = next((new for new in sorted(names, key=len)[::-1] if key.startswith(new)), "")
        old_key = names.get(new, "") + key[len(new) :]
        state[old_key] = torch.full((), i / 1000, dtype=value.dtype).expand(value.shape)
    return state


def test_saved_weights_come_back_with_their_preprocessing(lite, tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(path, lite, architecture="cascadepsp-lite", mean=HALF, std=(0.1, 0.2, 0.3))
    loaded = load_model(path)
    assert (loaded.architecture, loaded.mean, loaded.std) == (
        "cascadepsp-lite",
        HALF,
        (0.1, 0.2, 0.3),
    )
    assert not loaded.module.training
    for key, value in lite.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[key], value)


@pytest.mark.parametrize(
    ("prefix", "nest"), [("module.", None), ("", "state_dict"), ("module.", "model")]
)
def test_the_published_file_loads(prefix, nest, tmp_path) -> None:
    published = small_published()
    assert "feats.conv1.weight" in published
    assert "psp.stages.3.1.weight" in published
    assert "final_11.weight" in published
    state = {prefix + key: value for key, value in published.items()}
    torch.save({nest: state} if nest else state, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded.module, CascadeModule)
    assert sum(p.numel() for p in loaded.module.parameters()) == 67_683_433
    assert loaded.mean == zoo.IMAGENET_MEAN
    state = loaded.module.state_dict()
    for key, value in from_published_names(published).items():
        assert torch.equal(state[key], value)


def test_old_files_may_lack_the_batchnorm_counters(tmp_path) -> None:
    state = {k: v for k, v in small_published().items() if "num_batches_tracked" not in k}
    torch.save(state, tmp_path / "model")
    load_model(tmp_path / "model")


def test_files_that_do_not_fit_say_which_tensors(lite, tmp_path) -> None:
    path = tmp_path / "bad.pth"
    state = small_published()
    first = next(iter(state))
    torch.save({k: v for k, v in state.items() if k != first}, path)
    with pytest.raises(InputError, match=r"1 missing \(first: trunk\.conv1"):
        load_model(path)
    torch.save(state | {"extra": torch.zeros(1), "more": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"2 unexpected \(first: extra, more\)"):
        load_model(path)
    torch.save(state | {first: torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"1 mis-shaped \(first: trunk.* has shape \(2,\), not"):
        load_model(path)
    torch.save(state | {"trunk.conv1.weight": state[first]}, path)
    with pytest.raises(InputError, match="under the published names and under ours"):
        load_model(path)
    torch.save({"module." + first: state[first]} | {k: state[k] for k in state if k != first}, path)
    with pytest.raises(InputError, match=r"1 unexpected \(first: module\.feats"):
        load_model(path)
    torch.save({"a\nb": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"no network of crispseg has its 1 tensors \(first: a b"):
        load_model(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor(float("nan")), "1 tensors not finite"),
        (torch.tensor(float("inf")), "1 tensors not finite"),
        (torch.tensor(1e300, dtype=torch.float64), "1 tensors not finite"),
        (torch.tensor(1, dtype=torch.int32), "1 of another kind"),
        (torch.tensor(1, dtype=torch.complex64), "1 of another kind"),
        (torch.tensor(1.0, device="meta"), "1 of another kind"),
    ],
)
def test_values_that_are_no_weights_are_refused(value, message, lite, tmp_path) -> None:
    state = lite.state_dict()
    key = "trunk.conv_stem.weight"
    torch.save(state | {key: value.expand(state[key].shape)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=message) as caught:
        load_model(tmp_path / "a.pth")
    assert key in str(caught.value)


def test_a_sparse_tensor_is_refused(lite, tmp_path) -> None:
    state = lite.state_dict()
    key = "trunk.conv_stem.weight"
    torch.save(state | {key: state[key].to_sparse()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="1 of another kind"):
        load_model(tmp_path / "a.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype, lite, tmp_path) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in lite.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    module = load_model(tmp_path / "a.pth").module
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[key].to(value.dtype))


@pytest.mark.parametrize("legacy", [False, True])
def test_files_that_do_not_say_their_network_go_by_names(legacy, lite, tmp_path) -> None:
    path = tmp_path / "a.pth"
    torch.save(lite.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    loaded = load_model(path)
    assert (loaded.architecture, loaded.mean, loaded.std) == ("cascadepsp-lite", HALF, HALF)
    save_file(lite.state_dict(), tmp_path / "a.safetensors", metadata={"std": "[1, 2, 3]"})
    loaded = load_model(tmp_path / "a.safetensors")
    assert (loaded.architecture, loaded.std) == ("cascadepsp-lite", (1, 2, 3))
    save_file({"x": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="does not say which network"):
        load_model(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("mean", None),
        ("mean", "[1, 2]"),
        ("mean", '"123"'),
        ("mean", "[NaN, 0, 0]"),
        ("std", "[0, 1, 1]"),
        ("std", "[" * 100_000),
        ("std", "[1, 1, 1" + "0" * 400 + "]"),
        ("architecture", "pspnet\n"),
    ],
)
def test_metadata_that_cannot_be_used(key, text, lite, tmp_path) -> None:
    about = {"architecture": "cascadepsp-lite", "mean": json.dumps(HALF), "std": json.dumps(HALF)}
    about = {k: v for k, v in (about | {key: text}).items() if v is not None}
    path = tmp_path / "a.safetensors"
    save_file(lite.state_dict(), path, metadata=about)
    wanted = "network crispseg does not have" if key == "architecture" else f"usable '{key}'"
    with pytest.raises(InputError, match=wanted) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self):
        return (Path("exploded").touch, ())


def test_a_file_that_would_run_code_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, "bomb.pth")
    with pytest.raises(InputError, match="could run code"):
        load_model("bomb.pth")
    Path("plain.pth").write_bytes(pickle.dumps([Bomb(), "x" * 100]))
    with pytest.raises(InputError, match=r"plain\.pth"):
        load_model("plain.pth")
    torch.save({"weight": Bomb()}, "legacy.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="could run code"):
        load_model("legacy.pth")
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"\n\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page.*<!DOCTYPE"),
        (b"just some text, longer than a header", "text"),
        (b"\x00" * 100, "weights|safetensors"),
        (b"\xff" * 8 + b'{"a": 1}', "safetensors"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_one_line(content, message, suffix, tmp_path) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_truncated_files_are_refused(lite, tmp_path) -> None:
    torch.save(lite.state_dict(), tmp_path / "a.pth")
    save_weights(
        tmp_path / "a.safetensors", lite, architecture="cascadepsp-lite", mean=HALF, std=HALF
    )
    for path in (tmp_path / "a.pth", tmp_path / "a.safetensors"):
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(InputError):
            load_model(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_damage_is_more_than_one_line(legacy, tmp_path) -> None:
    buffer = io.BytesIO()
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    torch.save(state, buffer, _use_new_zipfile_serialization=not legacy)
    path, generator = tmp_path / "damaged.pth", random.Random(5)
    for _ in range(60):
        content = bytearray(buffer.getvalue())
        if generator.random() < 0.3:
            del content[generator.randrange(len(content)) :]
        for _ in range(generator.choice((1, 3, 40))):
            if content:
                content[generator.randrange(min(len(content), 900))] = generator.randrange(256)
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_model(path)
        assert "\n" not in str(caught.value)


def test_a_folder_and_things_that_are_not_weights(tmp_path) -> None:
    with pytest.raises(InputError, match="folder"):
        load_model(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="device or pipe"):
        load_model(tmp_path / "pipe")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(InputError, match="state_dict"):
        load_model(tmp_path / "module.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(InputError, match="no state dict"):
        load_model(tmp_path / "list.pth")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="more than named tensors"):
        load_model(tmp_path / "other.pth")


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(InputError, match="did you mean cascadepsp-lite"):
        load_model("cascadepsp-light")
    with pytest.raises(InputError, match="known: "):
        load_model("zzz")
    with pytest.raises(InputError, match="known: "):
        load_model("x" * 300)


def test_a_model_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(InputError, match="crispseg models download cascadepsp-resnet50"):
        load_model("cascadepsp-resnet50")


def test_a_file_of_the_authors_package_counts_only_with_the_right_checksum(monkeypatch) -> None:
    theirs = Path.home() / ".segmentation-refinement" / "model"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"not theirs")
    spec = zoo.KNOWN["cascadepsp-resnet50"]
    assert zoo.local_file(spec) is None
    monkeypatch.setattr(zoo, "wrong_checksum", lambda _path, _spec: "")
    assert zoo.local_file(spec) == theirs


def test_a_cached_file_is_used(monkeypatch) -> None:
    spec = zoo.KNOWN["cascadepsp-resnet50"]
    folder = zoo.cache_folder()
    folder.mkdir()
    torch.save({"module." + k: v for k, v in small_published().items()}, folder / spec.filename)
    loaded = load_model(spec.name)
    assert (loaded.architecture, loaded.mean) == (spec.architecture, zoo.IMAGENET_MEAN)
    assert loaded.source == str(folder / spec.filename)


def test_the_bundled_file_speaks_for_itself(lite, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(zoo, "BUNDLED_FOLDER", tmp_path)
    with pytest.raises(InputError, match="reinstall"):
        load_model("cascadepsp-lite")
    path = tmp_path / "cascadepsp-lite.safetensors"
    about = {"step": "7"}
    save_weights(
        path, lite, architecture="cascadepsp-lite", mean=(0, 0, 0), std=(1, 1, 1), metadata=about
    )
    loaded = load_model("cascadepsp-lite")
    assert (loaded.mean, loaded.std, loaded.metadata["step"]) == ((0, 0, 0), (1, 1, 1), "7")


def test_without_a_home_folder(monkeypatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert zoo.local_file(zoo.KNOWN["cascadepsp-resnet50"]) is None
    monkeypatch.delenv("CRISPSEG_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(InputError, match="set CRISPSEG_HOME"):
        zoo.cache_folder()


def test_a_full_disk_leaves_the_old_file(lite, tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"what was there before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            save_weights(path, lite, architecture="cascadepsp-lite", mean=HALF, std=HALF)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == b"what was there before"


def test_listing_models_does_not_import_torch() -> None:
    code = (
        "import sys; from crispseg.cli.models import app; "
        "app([], standalone_mode=False); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cascadepsp-resnet50" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_torchvisions_files_are_checked_loaded_and_named(monkeypatch) -> None:
    from torchvision.models.segmentation import fcn_resnet50

    spec = zoo.KNOWN["fcn-resnet50-voc"]
    assert spec.url == "https://download.pytorch.org/models/fcn_resnet50_coco-1167a1af.pth"
    path = zoo.cache_folder() / spec.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    torch.save(theirs.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert zoo.wrong_checksum(path, spec) == f"SHA256 {digest}, wanted 1167a1af"
    right = dataclasses.replace(spec, sha256=digest[:8])
    assert zoo.wrong_checksum(path, right) == ""
    loaded = load_model(spec.name)
    names, _ = weights.read_classes(loaded.metadata, path)
    assert (names[0], names[15], len(names)) == ("background", "person", 21)
    image = torch.rand(1, 3, 65, 70)
    with torch.no_grad():
        ours = loaded.module(image).logits
        torch.testing.assert_close(ours, theirs.eval()(image)["out"], atol=1e-4, rtol=0)


def test_what_ships_is_small_and_has_a_card() -> None:
    files = sorted(BUNDLED_FOLDER.glob("*.safetensors"))
    assert {"cascadepsp-lite", "lwrefinenet-camvid", "magnet-camvid"} <= {f.stem for f in files}
    assert max(f.stat().st_size for f in files) < 25e6
    assert sum(f.stat().st_size for f in files) < 60e6
    for file in files:
        card = file.with_suffix(".md").read_text(encoding="utf-8")
        assert all(part in card for part in ("Licence", "Training", "Figures", "Known failures"))
