from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from crispseg.models import weights
from crispseg.models.build import build
from crispseg.models.cascadepsp import RefinementModule
from crispseg.models.weights import from_published_names, load_model, save_weights
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
    """A published-style state dict of the full network, cheap to make: one value a tensor."""
    names = {new: old for old, new in weights.PUBLISHED_NAMES.items()}
    state = {}
    with torch.device("meta"):
        wanted = build("cascadepsp-resnet50").state_dict()
    for i, (key, value) in enumerate(wanted.items()):
        new = next((new for new in sorted(names, key=len)[::-1] if key.startswith(new)), "")
        old_key = names.get(new, "") + key[len(new) :]
        state[old_key] = torch.full(value.shape, i / 1000, dtype=value.dtype)
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
    assert isinstance(loaded.module, RefinementModule)
    assert sum(p.numel() for p in loaded.module.parameters()) == 67_683_433
    assert loaded.mean == weights.IMAGENET_MEAN
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
    torch.save(state | {"extra": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"1 unexpected \(first: extra"):
        load_model(path)
    torch.save(state | {first: torch.zeros(2)}, path)
    with pytest.raises(InputError, match="has shape"):
        load_model(path)
    torch.save(state | {first: torch.full_like(state[first], torch.nan)}, path)
    with pytest.raises(InputError, match="NaN"):
        load_model(path)
    torch.save(lite.state_dict(), path)
    with pytest.raises(InputError, match="does not fit cascadepsp-resnet50"):
        load_model(path)


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
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "weights"),
        (b"just some text, longer than a header", "weights"),
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


def test_a_folder_and_things_that_are_not_weights(tmp_path) -> None:
    with pytest.raises(InputError, match="folder"):
        load_model(tmp_path)
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


def test_a_model_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(InputError, match="crispseg models download cascadepsp-resnet50"):
        load_model("cascadepsp-resnet50")


def test_a_file_of_the_authors_package_counts_only_with_the_right_checksum(monkeypatch) -> None:
    theirs = Path.home() / ".segmentation-refinement" / "model"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"not theirs")
    spec = weights.KNOWN["cascadepsp-resnet50"]
    assert weights.local_file(spec) is None
    monkeypatch.setattr(weights, "file_md5", lambda _path: spec.md5)
    assert weights.local_file(spec) == theirs
