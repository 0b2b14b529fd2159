"""A model with one logit z trains as two classes with the logits (0, z)."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from diversify.augment.draw_key import DrawKey
from diversify.errors import InputError
from diversify.files import atomic
from diversify.functional import draws
from diversify.network.linear_head import read_head
from diversify.plan.plan import Plan
from diversify.plan.policies import FeaturePolicy
from diversify.training.ingredients import Ingredients
from diversify.training.loop import evaluate, fit
from diversify.training.losses import (
    LDAM,
    Always,
    Asymmetric,
    BalancedSoftmax,
    Deferred,
    Focal,
    VectorScaling,
    Weighted,
)
from diversify.training.one_logit import require_logit
from diversify.training.recipe import Recipe
from diversify.training.resident import ResidentImages, fit_resident

COUNTS = [24, 8]
LABELS = torch.repeat_interleave(torch.arange(2), torch.tensor(COUNTS))
IMAGES = draws.uniform("one logit", torch.arange(32 * 16)).view(32, 1, 4, 4).float() * 0.6 + 0.4 * LABELS.view(
    -1, 1, 1, 1
)
RECIPE = Recipe(epochs=3, batch_size=8, learning_rate=0.1, warmup_epochs=0, precision="fp32")


class Net(nn.Module):
    """One logit `(N, 1)`, or in another form; with `outputs=2` the logits (0, z), of the same weights."""

    def __init__(self, form=lambda z: z, outputs: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.body = nn.Sequential(nn.Conv2d(1, 5, 2), nn.ReLU(), nn.Flatten())
            self.fc = nn.Linear(45, 1)
        if outputs == 2:
            one, self.fc = self.fc, nn.Linear(45, 2)
            mask = torch.tensor([0.0, 1.0])
            with torch.no_grad():
                self.fc.weight.copy_(torch.cat([torch.zeros_like(one.weight), one.weight]))
                self.fc.bias.copy_(torch.cat([torch.zeros_like(one.bias), one.bias]))
            self.fc.weight.register_hook(lambda gradient: gradient * mask[:, None])
            self.fc.bias.register_hook(lambda gradient: gradient * mask)
        self.form = form

    def forward(self, images: Tensor) -> Tensor:
        return self.form(self.fc(self.body(images)))


def dataset(labels: Tensor = LABELS) -> TensorDataset:
    return TensorDataset(IMAGES, labels)


def trained(net: Net, make=lambda: Ingredients(), *, data=None, recipe=RECIPE, **options):
    """The records of a training, and the head after it."""
    val = DataLoader(dataset(), batch_size=16)
    found = list(fit(net, data or dataset(), recipe=recipe, num_classes=2, ingredients=make(), val=val, **options))
    return [(each.loss, each.accuracy_train, each.recall_val) for each in found], read_head(net.fc)


def same(one, two) -> None:
    assert [each[1:] for each in one[0]] == [each[1:] for each in two[0]]
    assert [each[0] for each in one[0]] == pytest.approx([each[0] for each in two[0]], rel=1e-5)
    torch.testing.assert_close(one[1].weight[1] - one[1].weight[0], two[1].weight[1] - two[1].weight[0])
    torch.testing.assert_close(one[1].bias[1] - one[1].bias[0], two[1].bias[1] - two[1].bias[0])


def by_plan() -> Plan:
    return Plan.from_counts(["no", "yes"], COUNTS)


def noise(features: Tensor, targets: Tensor, key: DrawKey) -> tuple[Tensor, Tensor]:
    return features + 0.1 * draws.uniform("noise", key.epoch, key.step, torch.arange(features.numel())).view_as(
        features
    ), targets


METHODS = {
    "plain": lambda: Ingredients(),
    "weighted": lambda: Ingredients(criterion=Always(Weighted(COUNTS, rule="inverse_frequency"))),
    "focal": lambda: Ingredients(criterion=Always(Focal(gamma=2.0))),
    "ldam": lambda: Ingredients(criterion=Deferred(LDAM(COUNTS, scale=2), LDAM(COUNTS, weight=[1.0, 3.0]), 1)),
    "balanced softmax": lambda: Ingredients(criterion=Always(BalancedSoftmax(COUNTS))),
    "asymmetric": lambda: Ingredients(criterion=Always(Asymmetric())),
    "no factors": lambda: Ingredients(criterion=Always(VectorScaling(COUNTS, gamma=0))),
    "after": lambda: Ingredients(after=lambda: torch.tensor([0.7, -0.2])),
    "features": lambda: Ingredients(augment_features=noise),
    "a plan": lambda: Ingredients.from_plan(by_plan(), LABELS, seed=0, epochs=RECIPE.epochs),
}


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_it_trains_as_two_logits_of_which_one_is_0(make):
    same(trained(Net(), make), trained(Net(outputs=2), make))


@pytest.mark.parametrize("method", ["isda", "smote", "toward_enemies", "covariance", "remix"])
def test_feature_methods_of_a_plan(method):
    plan = Plan.from_counts(["no", "yes"], COUNTS)
    toward = [{"yes": 1.0}, {"no": 1.0}] if method == "toward_enemies" else [{}, {}]
    classes = tuple(
        one.model_copy(
            update={"features": (FeaturePolicy(method=method, strength=0.5, share=0.8, neighbors=2, toward=enemies),)}
        )
        for one, enemies in zip(plan.classes, toward, strict=True)
    )
    schedule = plan.schedule.model_copy(update={"features": 0.0, "start": 0.0, "ramp": 0.0})
    plan = plan.model_copy(update={"classes": classes, "schedule": schedule})
    make = lambda: Ingredients.from_plan(plan, LABELS, seed=0, epochs=RECIPE.epochs)  # noqa: E731
    assert make().augment_features is not None
    found = trained(Net(), make)
    same(found, trained(Net(outputs=2), make))
    assert found[0][-1] != trained(Net(), lambda: Ingredients.from_plan(by_plan(), LABELS, seed=0, epochs=3))[0][-1]


@pytest.mark.parametrize("shift", [0.0, float(torch.tensor(8 / 24).log())])
def test_the_loss_is_binary_cross_entropy(shift):
    """By hand, in whole batches; balanced softmax adds the logarithm of the ratio of the counts."""
    net, by_hand = Net(), Net()
    recipe = Recipe(epochs=3, batch_size=32, learning_rate=0.1, warmup_epochs=0, precision="fp32", momentum=0.0)
    loss = Always(BalancedSoftmax(COUNTS, tau=1.0 if shift else 0.0))
    records, _ = trained(net, lambda: Ingredients(criterion=loss), recipe=recipe)
    step = torch.optim.SGD(by_hand.parameters(), lr=0.1, weight_decay=recipe.weight_decay)
    losses = []
    for epoch in range(3):
        step.param_groups[0]["lr"] = recipe.rate_at(epoch)
        value = functional.binary_cross_entropy_with_logits(by_hand(IMAGES)[:, 0] + shift, LABELS.float())
        losses.append(float(value.detach()))
        step.zero_grad(), value.backward(), step.step()
    assert [each[0] for each in records] == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(net.fc.weight, by_hand.fc.weight)


FORMS = {"(N,)": lambda z: z[:, 0], "squeezed": lambda z: z.squeeze()}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_the_logit_trains_alike(form):
    recipe = Recipe(epochs=2, batch_size=31, warmup_epochs=0, precision="fp32")  # the last batch has one image
    same(trained(Net(form), recipe=recipe), trained(Net(), recipe=recipe))
    net = Net()
    val = DataLoader(dataset(), batch_size=31)
    assert torch.equal(evaluate(Net(form), val, num_classes=2), evaluate(net, val, num_classes=2))


@pytest.mark.parametrize("labels", [LABELS.bool(), LABELS.float(), LABELS.double()[:, None], LABELS[:, None]])
def test_labels_as_binary_cross_entropy_takes_them(labels):
    same(trained(Net(), data=dataset(labels)), trained(Net()))


def test_with_all_images_on_the_device():
    pixels = ResidentImages(images=IMAGES, labels=LABELS)
    one, two, in_loader = Net(), Net(outputs=2), Net()
    for net in (one, two):
        list(fit_resident(net, pixels, recipe=RECIPE, num_classes=2))
    trained(in_loader)
    torch.testing.assert_close(one.fc.weight[0], two.fc.weight[1])
    torch.testing.assert_close(one.fc.weight, in_loader.fc.weight)


def test_a_run_resumes_and_writes_one_logit(tmp_path):
    state = tmp_path / "state.safetensors"
    run = fit(Net(), dataset(), recipe=RECIPE, num_classes=2, state=state)
    next(run), run.close()
    resumed, whole = Net(), Net()
    list(fit(resumed, dataset(), recipe=RECIPE, num_classes=2, state=state))
    list(fit(whole, dataset(), recipe=RECIPE, num_classes=2))
    assert torch.equal(resumed.fc.weight, whole.fc.weight)
    assert atomic.read_tensors(state)[0]["model.fc.weight"].shape == (1, 45)


SCALED = Ingredients(criterion=Always(VectorScaling(COUNTS, gamma=0.2)))
WRONG = [
    (lambda: Net(torch.sigmoid), Ingredients(), "model must return its logit for training, got the sigmoid of it;"),
    (lambda: Net(lambda z: z.sigmoid()[:, 0]), Ingredients(), "model must return its logit for training"),
    (Net, SCALED, "loss must be defined for one logit, got VectorScaling, which scales the logit of each class"),
]


@pytest.mark.parametrize(("make", "ingredients", "message"), WRONG)
def test_what_one_logit_does_not_define_is_refused(make, ingredients, message):
    for run in (
        fit(make(), dataset(), recipe=RECIPE, num_classes=2, ingredients=ingredients),
        fit_resident(
            make(),
            ResidentImages(images=IMAGES, labels=LABELS),
            recipe=RECIPE,
            num_classes=2,
            ingredients=ingredients,
        ),
    ):
        with pytest.raises(InputError) as found:
            next(run)
        assert str(found.value).startswith(message)


def test_one_logit_is_of_two_classes():
    with pytest.raises(InputError, match=r"^num_classes must be at least 2, got 1; a model with one logit"):
        next(fit(Net(), dataset(), recipe=RECIPE, num_classes=1))
    with pytest.raises(InputError, match=r"^model must return logits of shape \(N, 3\), got \(8, 1\)"):
        next(fit(Net(), dataset(), recipe=RECIPE, num_classes=3))


def test_logits_that_are_nearly_their_own_sigmoid_are_no_probabilities():
    net = Net()
    with torch.no_grad():
        net.fc.weight.zero_(), net.fc.bias.fill_(0.659046)
    assert require_logit(net, IMAGES)
    with pytest.raises(InputError, match="the sigmoid of it"):
        require_logit(Net(torch.sigmoid), IMAGES)
    assert not require_logit(Net(outputs=2), IMAGES)
