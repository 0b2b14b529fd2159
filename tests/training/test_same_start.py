"""Processes that train together start from one state and one data set, or not at all."""

from pathlib import Path

import torch
from ranks import of_ranks
from torch import nn
from torch.utils.data import TensorDataset

from diversify.training.loop import fit
from diversify.training.recipe import Recipe

RECIPE = Recipe(epochs=3, batch_size=8, learning_rate=0.1, warmup_epochs=0, precision="fp32")


def train(state: Path, *, epochs: int = RECIPE.epochs, rows: int = 24, identity: str = "", seed: int = 0) -> list[int]:
    """The epochs that were trained or read from the state."""
    torch.manual_seed(seed)
    net = nn.Linear(4, 3)
    images = torch.arange(rows * 4).remainder(7).view(rows, 4) / 7
    data = TensorDataset(images, torch.arange(rows) % 3)
    run = fit(net, data, recipe=RECIPE, num_classes=3, state=state, identity=identity)
    found = [record.epoch for _, record in zip(range(epochs), run, strict=False)]
    run.close()
    return found


def test_a_process_that_does_not_see_the_state_stops_all(tmp_path: Path) -> None:
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
    train(tmp_path / "0" / "state", epochs=2)
    assert (
        of_ranks(tmp_path, lambda rank: train(tmp_path / str(rank) / "state"))
        == [
            "state must be the same in all processes, got 2 finished epochs in process 0, 0 in process 1; its folder must lie on "
            "a disk that all machines share"
        ]
        * 2
    )
    assert not (tmp_path / "1" / "state").exists()


def test_states_of_two_runs_and_two_data_sets_are_told_apart_and_one_state_is_resumed(tmp_path: Path) -> None:
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
        train(tmp_path / str(rank) / "state", epochs=2, seed=rank)
    same, whole = "must be the same in all processes, got another in process 1 than in process 0", tmp_path / "whole"

    def outcomes(rank: int) -> list[object]:
        found: list[object] = []
        for state, more in (
            (tmp_path / str(rank) / "state", {}),
            (whole, {"rows": 24 + rank}),
            (whole, {"identity": f"listed {rank}"}),
            (tmp_path / "0" / "state", {}),
        ):
            try:
                found.append(train(state, **more))
            except ValueError as error:
                found.append(str(error))
        return found

    both = of_ranks(tmp_path, outcomes)
    assert both[0] == both[1]
    assert both[0] == [
        f"state {same}; its folder must lie on a disk that all machines share",
        f"training set, model and recipe {same}; give each process the same",
        f"training set, model and recipe {same}; give each process the same",
        [0, 1, 2],
    ]
    assert not whole.exists()
