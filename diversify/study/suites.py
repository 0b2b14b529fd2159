"""The protocols that the command `diversify benchmark` finds by name."""

from __future__ import annotations

from collections.abc import Mapping

from .protocol import Protocol

THE_EIGHT = (
    "ce",
    "ldam_drw",
    "balanced_softmax",
    "vs",
    "remix_drw",
    "balanced_softmax+images+mix+head",
    "plan_from_counts",
    "diversify",
)
"""The methods to compare when runs are costly: plain training, the strongest losses, mixing, and controls of `diversify`."""

DIGITS = Protocol(
    suite="digits",
    data="digits",
    imbalance="exp:20",
    model="small_cnn",
    epochs=20,
    batch_size=32,
    warmup_epochs=2,
    precision="fp32",
    learning_rate=(0.01, 0.05, 0.2),
    weight_decay=(1e-4, 5e-4, 5e-3),
    methods=(
        "ce",
        "effective_number",
        "focal",
        "ldam_drw",
        "balanced_softmax",
        "logit_adjustment",
        "class_balanced_sampling",
        "crt",
        "remix_drw",
        "eos",
        "balanced_softmax+images+mix+head",
        "diversify",
    ),
    trials=3,
    seeds=(0, 1),
)

CIFAR10_LT_SHORT = Protocol(
    suite="cifar10_lt_short",
    data="cifar10",
    model="resnet20",
    epochs=30,
    trial_epochs=15,
    learning_rate=(0.05, 0.1, 0.3),
    weight_decay=(1e-4, 5e-4, 2e-3),
    methods=THE_EIGHT,
    trials=2,
    seeds=(0, 1, 2),
)

FASHION_MNIST_LT = Protocol(
    suite="fashion_mnist_lt",
    data="fashion-mnist",
    imbalance="exp:100:2000",
    tail_orders=("0",),
    model="small_cnn",
    epochs=20,
    learning_rate=(0.02, 0.05, 0.2),
    weight_decay=(1e-4, 5e-4, 2e-3),
    methods=THE_EIGHT,
    trials=2,
    seeds=(0, 1, 2),
    confirmation=True,
    note="Run once, with the rules and the defaults frozen before; nothing was developed on these images.",
)

CIFAR10_LT = Protocol(
    suite="cifar10_lt",
    data="cifar10",
    model="resnet32",
    epochs=200,
    trial_epochs=60,
    learning_rate=(0.05, 0.1, 0.3),
    weight_decay=(2e-4, 5e-4, 1e-3),
    methods=THE_EIGHT,
    trials=4,
    seeds=(0, 1, 2),
)

CIFAR100_LT = CIFAR10_LT.model_copy(update={"suite": "cifar100_lt", "data": "cifar100"})

SUITES: Mapping[str, Protocol] = {
    protocol.suite: protocol for protocol in (DIGITS, CIFAR10_LT_SHORT, FASHION_MNIST_LT, CIFAR10_LT, CIFAR100_LT)
}
