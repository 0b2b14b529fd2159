"""Groups of images in a data source: where they are read from, and hold-outs that split none."""

import numpy as np
import pytest
import torch
from PIL import Image

from diversify.commands.options import DataOptions
from diversify.data.grouping import holdout_groups
from diversify.data.load import load_data
from diversify.errors import InputError
from diversify.functional import draws

N = 60
LABELS, PATIENTS = np.arange(N) % 3, np.arange(N) // 4


def npz(tmp_path, **more):
    images = draws.integers(256, "images", torch.arange(N * 16)).view(N, 4, 4).to(torch.uint8).numpy()
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=LABELS, **more)
    return f"npz:{tmp_path / 'a.npz'}"


def require_whole_groups(data):
    train, val = data.train, data.val
    assert torch.equal(train.groups, torch.as_tensor(PATIENTS)[train.indices]) or data.group == "given"
    assert set(train.groups.tolist()).isdisjoint(val.groups.tolist())
    assert len(train) + len(val) == N
    assert 8 <= len(val) <= 16
    assert len(train.labels.unique()) == 3


def test_groups_of_the_file_are_not_split(tmp_path):
    spec = npz(tmp_path, train_groups=PATIENTS)
    data = load_data(spec, mean=(0.5,), std=(0.5,))
    require_whole_groups(data)
    assert data.record()["group"] == "given"
    assert torch.equal(data.val.indices, load_data(spec, mean=(0.5,), std=(0.5,)).val.indices)


@pytest.mark.parametrize("form", ["txt", "csv", "npy", "text", "values"])
def test_groups_from_a_file_or_values(tmp_path, form):
    spec, group = npz(tmp_path), tmp_path / f"groups.{'txt' if form == 'text' else form}"
    if form == "npy":
        np.save(group, PATIENTS)
    elif form == "values":
        group = PATIENTS.tolist()
    else:
        group.write_text("\n".join(f"p{one}" if form == "text" else str(one) for one in PATIENTS) + "\n")
    data = load_data(spec, mean=(0.5,), std=(0.5,), group=group)
    whole = load_data(npz(tmp_path, train_groups=PATIENTS), mean=(0.5,), std=(0.5,))
    numbers = torch.as_tensor(PATIENTS)
    assert set(numbers[data.train.indices].tolist()).isdisjoint(numbers[data.val.indices].tolist())
    if form in ("npy", "values"):
        assert torch.equal(data.val.indices, whole.val.indices)


def test_a_table_s_column_gives_groups(monkeypatch):
    from diversify.data import load
    from diversify.data.sources import Source
    from diversify.data.tables import Table

    class Rows:
        column_names, features = ("image", "label", "patient"), {}

        def __len__(self):
            return N

        def __getitem__(self, key):
            columns = {"label": LABELS.tolist(), "patient": [f"p{one}" for one in PATIENTS]}
            return columns[key] if isinstance(key, str) else {"image": torch.rand(1, 4, 4)}

    labels = torch.as_tensor(LABELS)
    table = Table(Rows(), "image", labels)
    monkeypatch.setattr(load, "read_source", lambda *_, **__: Source(splits={"train": (table, labels)}, ready=True))
    data = load_data("mine:rows", group="patient")
    patients = torch.as_tensor(PATIENTS)
    assert set(patients[data.train.indices].tolist()).isdisjoint(patients[data.val.indices].tolist())
    with pytest.raises(InputError, match=r"group must name a column of mine:rows.*'doctor'.*image, label, patient"):
        load_data("mine:rows", group="doctor")


@pytest.mark.parametrize(
    ("group", "law"),
    [
        ([1, 2], "group must be one value per row, 60, got 2"),
        ("nowhere.txt", "group must"),
        ("patient", "group must name a column"),
    ],
)
def test_wrong_groups_are_refused(tmp_path, group, law):
    with pytest.raises(InputError, match=law):
        load_data(npz(tmp_path), group=group, mean=(0.5,), std=(0.5,))


def test_a_source_that_is_cut_by_image_takes_no_groups():
    with pytest.raises(InputError, match="group must be left out for digits"):
        load_data("digits", group=list(range(1797)))


def test_every_class_keeps_an_image_and_one_group_is_refused():
    labels, groups = torch.tensor([0] * 20 + [1] * 4), torch.tensor([*range(20), 99, 99, 99, 99])
    kept, held = holdout_groups(labels, groups, 0.25)
    assert labels[kept].bincount().tolist() == [15, 4]
    assert labels[held].bincount(minlength=2).tolist() == [5, 0]
    with pytest.raises(InputError, match="group must leave a group to hold out, got 1 groups"):
        holdout_groups(labels, torch.zeros(24), 0.25)


def test_the_shares_of_classes_are_near_the_wanted_share():
    labels, groups = draws.integers(5, "label", torch.arange(2000)), draws.integers(200, "group", torch.arange(2000))
    _, held = holdout_groups(labels, groups, 0.2)
    share = labels[held].bincount(minlength=5) / labels.bincount(minlength=5)
    assert bool(((share - 0.2).abs() < 0.04).all())


def test_a_record_gives_the_group_back(tmp_path):
    spec, group = npz(tmp_path), tmp_path / "groups.txt"
    group.write_text("\n".join(map(str, PATIENTS)))
    options = DataOptions(spec=spec, group=str(group), mean=(0.5,), std=(0.5,))
    data = options.load(measure_view=False)
    again = DataOptions().filled_from({"data": data.record()})
    assert again.group == str(group)
    assert group in options.inputs()
    assert "groups.txt" in options.digests()


def folder(tmp_path, splits=("",)):
    top = tmp_path / "photos"
    for split in splits:
        for name in ("a", "b"):
            (top / split / name).mkdir(parents=True)
            for number in range(6):
                Image.new("RGB", (4, 4), (40 * number, 9, 9)).save(top / split / name / f"{number}.png")
    return top


def table(top, group, left_out=()):
    lines = [f"{path.relative_to(top).as_posix()},day {int(path.stem) // 2}" for path in sorted(top.rglob("*.png"))]
    group.write_text(
        "\n".join(["path,group", *(line for line in reversed(lines) if line.split(",")[0] not in left_out)])
    )
    return group


def test_a_table_of_paths_and_groups_is_read_in_any_order(tmp_path):
    top = folder(tmp_path)
    data = load_data(f"folder:{top}", mean=(0.5,), std=(0.5,), holdout=0.3, group=table(top, tmp_path / "days.csv"))
    days = torch.arange(12) % 6 // 2
    assert set(days[data.train.indices].tolist()).isdisjoint(days[data.val.indices].tolist())
    assert len(data.train) + len(data.val) == 12
    assert len(data.train.groups.unique()) == 2


def test_a_table_of_paths_may_name_held_out_images_too(tmp_path):
    top = folder(tmp_path, ("train", "val"))
    group = table(top, tmp_path / "days.csv")
    data = load_data(f"folder:{top}", mean=(0.5,), std=(0.5,), group=group)
    assert torch.equal(data.val.groups, data.train.groups)
    table(top, group, [f"val/{name}/{number}.png" for name in "ab" for number in range(6)])
    assert load_data(f"folder:{top}", mean=(0.5,), std=(0.5,), group=group).val.groups is None


def test_a_table_need_not_name_images_that_cannot_be_read(tmp_path):
    top = folder(tmp_path)
    (top / "a" / "1.png").write_bytes(b"no image")
    group = table(top, tmp_path / "days.csv", ["a/1.png"])
    options = {"mean": (0.5,), "std": (0.5,), "holdout": 0, "group": group}
    data = load_data(f"folder:{top}", skip_bad=True, **options)
    assert data.skipped == ("a/1.png",)
    days, groups = (torch.arange(12) % 6 // 2)[data.train.indices], data.train.groups
    assert torch.equal(groups[:, None] == groups, days[:, None] == days)
    table(top, group, ["a/1.png", "b/3.png"])
    with pytest.raises(InputError, match="got 1 that are not there, such as b/3.png"):
        load_data(f"folder:{top}", skip_bad=True, **options)
    with pytest.raises(InputError, match="got 2 that are not there, such as a/1.png"):
        load_data(f"folder:{top}", **options)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a/0.png,1\na/1.png,1\n", "have one value per line, or the columns path and group"),
        ("path,group\na/0.png,1\na/0.png,2\n", "give each image one value in .*, got 1 and 2 for a/0.png"),
        ("path,group\na/0.png\n", "have 2 fields in each line of .*, got 1 in line 2"),
        (
            "path,group\na/0.png,1\n",
            "name every image of train by its path.*, got 11 that are not there, such as a/1.png",
        ),
        (
            "\n".join(map(str, range(12))),
            "give images that belong together one value, got another value for each of 12",
        ),
    ],
)
def test_a_file_of_groups_that_cannot_be_meant_is_refused(tmp_path, lines, message):
    top, group = folder(tmp_path), tmp_path / "days.csv"
    group.write_text(lines)
    with pytest.raises(InputError, match=f"^group must {message}"):
        load_data(f"folder:{top}", mean=(0.5,), std=(0.5,), group=group)


def test_a_table_of_paths_is_refused_for_arrays(tmp_path):
    group = tmp_path / "days.csv"
    group.write_text("path,group\na.png,1\n")
    with pytest.raises(InputError, match="have one value per line for npz:.*, whose images are not files"):
        load_data(npz(tmp_path), mean=(0.5,), std=(0.5,), group=group)
