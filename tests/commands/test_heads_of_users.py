"""`diagnose` and `remedy` on heads with a single logit and heads without a bias, back into the user's own model."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diversify as dv
from diversify.cli.entry import run
from diversify.commands import remedy as module
from diversify.commands.diagnosed import load_diagnosed
from diversify.files import atomic

pytestmark = pytest.mark.usefixtures("reports_without_figures")

VIEW = ["--mean", ".5", "--std", ".5"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were few repairs, each took a few steps, and they were judged on one cut into folds."""
    from diversify.repair.retrain import HeadRecipe

    monkeypatch.setattr(module, "REPEATS", 1)
    monkeypatch.setattr(module, "default_candidates", lambda *args, **named: dv.default_candidates(*args, **named)[:5])
    monkeypatch.setattr(module, "HeadRecipe", lambda **options: HeadRecipe(steps=20, batch_size=32, **options))


class Own(nn.Module):
    """A user's classifier; with one output it returns a flat sigmoid or logit."""

    def __init__(self, outputs: int, *, bias: bool = True, sigmoid: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.out = nn.Linear(24, outputs, bias=bias)
        self.sigmoid = sigmoid
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        z = self.out(self.body(images))
        z = z[:, 0] if z.shape[1] == 1 else z
        return z.sigmoid() if self.sigmoid else z


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the user's, with functions that build networks."""
    found = ModuleType("users_networks")
    found.logit = lambda: Own(1)
    found.probability = lambda num_classes: Own(num_classes, sigmoid=num_classes == 1)
    found.bare = lambda: Own(3, bias=False)
    monkeypatch.setitem(sys.modules, "users_networks", found)
    return found


def data_of(folder: Path, classes: int) -> list[str]:
    """Images whose class is the brightest quarter, with fewer of each further class."""
    generator = np.random.default_rng(0)
    arrays = {}
    for name, counts in (("train", (60, 20, 10)[:classes]), ("val", (20, 20, 20)[:classes])):
        labels = np.repeat(np.arange(classes), counts)
        images = generator.integers(0, 120, (len(labels), 8, 8), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 90
        arrays |= {f"{name}_images": images, f"{name}_labels": labels}
    np.savez(folder / "d.npz", **arrays)
    return ["--data", f"npz:{folder / 'd.npz'}", *VIEW]


def heldout_of(folder: Path) -> tuple[Tensor, Tensor]:
    arrays = np.load(folder / "d.npz")
    images = torch.from_numpy(arrays["val_images"])[:, None].float() / 255
    return (images - 0.5) / 0.5, torch.from_numpy(arrays["val_labels"])


def repaired(folder: Path, model: str, weights: Path, classes: int, *more: str) -> dv.HeadChoice:
    data = data_of(folder, classes)
    arguments = ["--model", f"users_networks:{model}", "--weights", str(weights), "--out", str(folder / "diagnosed")]
    assert run(["diagnose", *data, *arguments]) == 0
    assert run(["remedy", str(folder / "diagnosed"), "--out", str(folder / "remedy"), *more]) == 0
    return dv.HeadChoice.from_dict(atomic.read_json(folder / "remedy" / "remedy.json", "remedy")["choice"])


@pytest.mark.parametrize("model", ["logit", "probability"])
def test_a_binary_classifier_gets_one_logit_back(tmp_path: Path, own: ModuleType, model: str) -> None:
    network = Own(1, sigmoid=model == "probability")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "mine.pt")
    choice = repaired(tmp_path, model, tmp_path / "mine.pt", 2)
    assert choice.recommended > 0
    diagnosis, _, record = load_diagnosed(tmp_path / "diagnosed")
    assert record["model"]["head"] == "out"
    assert diagnosis.notes[0].startswith("The head has no weights for class 0, as a model with one output has none")
    dv.load_weights(network, tmp_path / "remedy" / "model.safetensors")
    images, labels = heldout_of(tmp_path)
    threshold = 0.5 if model == "probability" else 0.0
    predicted = (network(images) > threshold).long()
    split = dv.split_head(network)
    head = dv.read_head(split.head)
    assert torch.equal(predicted, head.logits(split(images)[0]).argmax(1))
    untouched = Own(1)
    before = (untouched(images) > 0).long()
    right = [[(one[labels == c] == c).float().mean() for c in (0, 1)] for one in (before, predicted)]
    assert sum(right[1]) > sum(right[0])
    assert run(["plan", str(tmp_path / "diagnosed"), "--out", str(tmp_path / "plan.json")]) == 0


def test_a_head_without_a_bias_gets_weights_alone(
    tmp_path: Path, own: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Own(3, bias=False)
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    choice = repaired(tmp_path, "bare", tmp_path / "mine.pt", 3)
    assert "candidates that need one are left out" in capsys.readouterr().out
    assert not {"logit adjustment", "nearest mean"} & set(choice.names)
    assert all("tau" not in option for option in choice.options[choice.names.index("even draws")])
    tensors = atomic.read_tensors(tmp_path / "remedy" / "model.safetensors")[0]
    assert {name: value.shape for name, value in tensors.items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }
    dv.load_weights(network, tmp_path / "remedy" / "model.safetensors")
    images, labels = heldout_of(tmp_path)
    recall = torch.stack([(network(images).argmax(1)[labels == c] == c).float().mean() for c in range(3)])
    assert float(recall.mean()) > 0.6


def arrays_of(folder: Path, *, logits, head: dv.LinearHead, rows: int = 60) -> list[str]:
    generator = torch.Generator().manual_seed(2)
    files = []
    for name in ("train", "heldout"):
        labels = torch.arange(rows) % head.num_classes
        means = head.weight - head.weight.mean(0)
        features = means[labels] + torch.randn(rows, head.num_features, generator=generator)
        columns = {"features": features.numpy(), "labels": labels.numpy()}
        given = None if logits is None else logits(head.logits(features))
        np.savez(folder / f"{name}.npz", **columns, **({} if given is None else {"logits": given.numpy()}))
        files.append(str(folder / f"{name}.npz"))
    return files


def random_head(outputs: int, **options: object) -> dv.LinearHead:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(outputs, 6, generator=generator)
    bias = torch.randn(outputs, generator=generator) if options.pop("bias", True) else torch.zeros(outputs)
    return dv.LinearHead(weight=weight, bias=bias, **options)


FORMS = {
    "the logits of three classes": (random_head(3), lambda z: z),
    "a single logit": (random_head(1, single_logit=True), lambda z: z[:, 1:]),
    "a flat logit": (random_head(1, single_logit=True), lambda z: z[:, 1]),
}


@pytest.mark.parametrize(("head", "logits"), FORMS.values(), ids=FORMS)
def test_the_head_of_the_logits_in_the_files_is_found(
    tmp_path: Path, head: dv.LinearHead, logits, capsys: pytest.CaptureFixture[str]
) -> None:
    files = arrays_of(tmp_path, logits=logits, head=head)
    out = tmp_path / "out"
    assert run(["diagnose", "--features", *files, "--top-k", "4", "--out", str(out)]) == 0
    assert "note: the head is the one that turns the files' features into their logits" in capsys.readouterr().out
    _, model, record = load_diagnosed(out)
    torch.testing.assert_close(model.head.weight, head.weight, rtol=1e-3, atol=1e-4)
    assert model.head.single_logit == head.single_logit
    assert record["head_fitted"] is None
    assert record["model"]["name"] == "the head of the logits in the files"
    assert run(["remedy", str(out), "--out", str(tmp_path / "remedy")]) == 0
    tensors = atomic.read_tensors(tmp_path / "remedy" / "model.safetensors")[0]
    assert tensors["weight"].shape == head.stored[0].shape


def test_logits_that_no_head_gives_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = arrays_of(tmp_path, logits=lambda z: z.softmax(1), head=random_head(3))
    assert run(["diagnose", "--features", *files, "--top-k", "4", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "logits must be W f + b of the features where no head is given, got others" in said
    assert "pass --head FILE, or leave out the logits" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


HEADS = {
    "one row": random_head(1, single_logit=True),
    "without a bias": random_head(3, bias=False, has_bias=False),
    "cosine": random_head(3, bias=False, cosine=True, scale=7.0, has_bias=False),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_file_keeps_its_form(tmp_path: Path, head: dv.LinearHead) -> None:
    from diversify.network.head_file import load_head, save_head

    save_head(tmp_path / "head.safetensors", head)
    files = arrays_of(tmp_path, logits=None, head=head)
    out = tmp_path / "out"
    arguments = ["--head", str(tmp_path / "head.safetensors"), "--top-k", "4", "--out", str(out)]
    assert run(["diagnose", "--features", *files, *arguments]) == 0
    assert run(["remedy", str(out), "--out", str(tmp_path / "remedy")]) == 0
    found = load_head(tmp_path / "remedy" / "model.safetensors")
    kinds = [(one.cosine, one.single_logit, one.has_bias, one.scale) for one in (head, found)]
    assert kinds[0] == kinds[1]
    before, after = (
        atomic.read_tensors(tmp_path / name)[0] for name in ("head.safetensors", "remedy/model.safetensors")
    )
    assert {name: value.shape for name, value in before.items()} == {name: value.shape for name, value in after.items()}
