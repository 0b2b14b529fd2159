"""Batches of every form; what a loader leaves out or repeats; and which image a row is."""

from dataclasses import replace

import pytest
import torch
from small_network import Images, make_net, message_of, seeded
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from diversify.diagnosis.choose_exhibits import choose_exhibits
from diversify.diagnosis.measure import diagnose, diagnose_model
from diversify.errors import InputError
from diversify.network.embeddings import Embeddings
from diversify.network.extraction import extract
from diversify.network.reading import Reading
from diversify.network.split import split_head
from diversify.network.synthetic import make_embeddings
from diversify.report.thumbnails import take_pictures

torch.set_num_threads(1)

IMAGES, LABELS = seeded(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])


class Aged(Dataset):
    """A data set whose third entry is no index."""

    targets = LABELS.tolist()

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return IMAGES[index], self.targets[index], 30 + index % 2


class Prefetcher:
    def __init__(self, loader):
        self.loader, self.dataset = loader, loader.dataset

    def __iter__(self):
        yield from self.loader


def test_a_third_entry_is_no_index_unless_named():
    split = split_head(make_net())
    plain = extract(split, DataLoader(Aged(), batch_size=4))
    assert plain.reading == Reading()
    assert plain.indices.tolist() == [0, 1, 2, 3, 4, 5]
    wrapped = extract(split, Prefetcher(DataLoader(Aged(), batch_size=4)))
    assert wrapped.reading == Reading(indices_known=False)
    assert wrapped.indices.tolist() == [0, 1, 2, 3, 4, 5]
    rows = torch.tensor([5, 3, 1, 0, 2, 4])
    batches = [{"image": IMAGES, "label": LABELS, "row": rows, "age": [30, 30, 31, 32, 33, 34]}]
    named = extract(split, batches, index="row")
    assert (named.reading.indices_known, named.indices.tolist()) == (True, rows.tolist())
    for index, message in (
        ("age", "index must name each image once, got 30 twice; read each image once"),
        ("ages", "index must be one of image, label, row, age, got 'ages'; did you mean 'age'?"),
        ("image", "index must name integers, the images' places in the data set, got float32"),
    ):
        assert message_of(InputError, extract, split, batches, index=index) == message
    assert message_of(InputError, extract, split, Prefetcher(DataLoader(Aged(), batch_size=4)), index=2) == (
        "index must name the images' places in the data set, in [0, 5], got 30"
    )
    assert message_of(InputError, extract, split, DataLoader(Aged(), batch_size=4), index=2) == (
        "index must name the images' places in the loader's own data set, got [30, 31, 30] for [0, 1, 2]"
    )


def test_unknown_indices_are_kept_on_disk_and_show_no_pictures(tmp_path):
    train, heldout, head = make_embeddings((80, 30, 5))
    unknown = replace(train, reading=Reading(indices_known=False, left_out=2, left_out_by_class=(0, 0, 2)))
    unknown.save(tmp_path / "train")
    unknown = Embeddings.load(tmp_path / "train")
    assert unknown.reading == Reading(indices_known=False, left_out=2, left_out_by_class=(0, 0, 2))
    diagnosis = diagnose(unknown, heldout, head=head)
    exhibits = choose_exhibits(unknown, heldout, head=head, diagnosis=diagnosis)
    shown = take_pictures(exhibits, None, [[torch.zeros(1, 4, 4)]] * len(heldout))
    assert [each.picture for one in shown.examples for each in one.typical] == [""] * len(shown.examples[0].typical)
    assert all(each.picture for one in shown.examples for each in one.errors)


def test_embeddings_with_the_usual_reading_are_saved_as_before(tmp_path):
    train = make_embeddings((8, 5))[0]
    train.save(tmp_path / "train")
    assert "reading" not in (tmp_path / "train" / "index.json").read_text()
    assert Embeddings.load(tmp_path / "train").reading == Reading()


def test_drop_last_leaves_nothing_out():
    found = extract(split_head(make_net()), DataLoader(Images(20), batch_size=6, shuffle=True, drop_last=True))
    assert sorted(found.indices.tolist()) == list(range(20))
    assert found.reading == Reading(last_batch=2)
    even = extract(split_head(make_net()), DataLoader(Images(18), batch_size=6, drop_last=True))
    assert even.reading == Reading()
    hidden = extract(split_head(make_net()), Prefetcher(DataLoader(Images(20), batch_size=6, drop_last=True)))
    assert hidden.reading == Reading(indices_known=False, left_out=2, left_out_by_class=(1, 1, 0))


class Broken(Images):
    """Images of which every tenth cannot be read."""

    def __getitem__(self, index):
        return None if index in (3, 13, 18, 19) else super().__getitem__(index)


def skipping(examples):
    examples = [example for example in examples if example is not None]
    return default_collate(examples) if examples else None


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("on_disk", [False, True])
def test_what_a_collate_function_leaves_out_is_counted(workers, on_disk, tmp_path):
    dataset, out = Broken(20), tmp_path / "out" if on_disk else None
    dataset.targets = dataset.labels
    loader = DataLoader(dataset, batch_size=6, collate_fn=skipping, num_workers=workers)
    split = split_head(make_net())
    found = extract(split, loader, out=out)
    rows = [row for row in range(20) if row not in (3, 13, 18, 19)]
    assert found.indices.tolist() == rows
    assert found.labels.tolist() == [dataset.labels[row] for row in rows]
    assert found.reading == Reading(left_out=4, left_out_by_class=(2, 2, 0))
    if on_disk:
        again = extract(split, loader, out=out)
        assert torch.equal(again.features, found.features)
        assert again.reading == found.reading


def test_a_collate_function_that_drops_by_chance_is_refused():
    loader = DataLoader(Images(6), batch_size=3, collate_fn=lambda examples: default_collate(examples[:2]))
    assert message_of(InputError, extract, split_head(make_net()), loader) == (
        "collate_fn of the loader must give one row per image, or leave out the same images when it gets them alone,"
        " got 2 rows of 3 images"
    )


class Stream(IterableDataset):
    def __init__(self, sharded, known=False, noise=False):
        self.sharded, self.noise = sharded, noise
        if known:
            self.__class__ = Sized

    def __iter__(self):
        worker = get_worker_info()
        places = range(worker.id, 6, worker.num_workers) if self.sharded else range(6)
        yield from ((IMAGES[i] + (torch.rand(1) if self.noise else 0), int(LABELS[i])) for i in places)


class Sized(Stream):
    def __len__(self):
        return 6


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
def test_a_stream_that_every_worker_repeats_is_refused():
    split = split_head(make_net())
    advice = "; shard the stream by torch.utils.data.get_worker_info(), or use one worker"
    stream = DataLoader(Stream(sharded=False), batch_size=3, num_workers=2)
    assert message_of(InputError, extract, split, stream) == (
        f"loader must give each image once, got the same batch from each of 2 workers{advice}"
    )
    noisy = DataLoader(Stream(sharded=False, known=True, noise=True), batch_size=3, num_workers=2)
    assert message_of(InputError, extract, split, noisy) == (
        f"loader must give each image once, got 12 rows of 6 images by 2 workers{advice}"
    )
    sharded = extract(split, DataLoader(Stream(sharded=True), batch_size=3, num_workers=2))
    assert sorted(sharded.labels.tolist()) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.double(),
        LABELS[:, None].float(),
        torch.eye(3)[LABELS],
        torch.eye(3, dtype=torch.int64)[LABELS],
        [*LABELS],
    ],
)
@pytest.mark.parametrize("form", [tuple, "labels", "mine"])
def test_labels_and_batches_of_every_usual_form(labels, form):
    batch, keys = (IMAGES, labels), {}
    if form == "labels":
        batch = {"pixel_values": IMAGES, "labels": labels}
    if form == "mine":
        batch, keys = {"x": IMAGES, "y": labels}, {"image_key": "x", "label_key": "y"}
    found = extract(split_head(make_net()), [None, batch], **keys)
    assert found.labels.tolist() == LABELS.tolist()
    yes = extract(split_head(make_net()), [(IMAGES, LABELS > 0)])
    assert yes.labels.tolist() == [0, 1, 1, 0, 1, 1]


def test_labels_under_two_keys_that_differ_are_refused_and_images_are_the_tensor():
    split = split_head(make_net())
    batch = {"image": ["a file"] * 6, "pixel_values": IMAGES, "label": LABELS, "labels": LABELS.clone()}
    assert torch.equal(extract(split, [batch]).labels, LABELS)
    del batch["pixel_values"]
    both = batch | {"image": ["a file"] * 6, "img": IMAGES, "labels": 2 - LABELS}
    message = "loader must yield labels under one key, got labels that differ under labels and label; name the entry with label_key=KEY"
    assert message_of(InputError, lambda: extract(split, [both])) == message
    assert torch.equal(extract(split, [both], label_key="labels").labels, 2 - LABELS)


class Again(Dataset):
    """Gives the next image where one cannot be used, with the label of that image."""

    targets = LABELS.tolist()

    def __len__(self):
        return 6

    def __getitem__(self, index):
        index = 3 if index == 2 else index
        return IMAGES[index], self.targets[index]


def test_labels_that_are_not_those_of_the_data_set_are_counted():
    found = extract(split_head(make_net()), DataLoader(Again(), batch_size=4, shuffle=True))
    assert found.reading == Reading(other_labels=1, other_labels_by_class=(0, 0, 1))
    assert Reading.from_dict(found.reading.to_dict()) == found.reading
    assert Reading.from_dict({"left_out": 1}).other_labels == 0


def test_a_wrapper_that_draws_with_replacement_is_found_by_its_counts():
    drawn = [0, 3, 0, 3, 1, 2]
    loader = Prefetcher(DataLoader(Aged(), batch_size=4, sampler=drawn))
    reading = extract(split_head(make_net()), loader).reading
    assert reading == Reading(indices_known=False, left_out=2, left_out_by_class=(0, 1, 1), repeated=2)
    reading = extract(split_head(make_net()), Prefetcher(DataLoader(Aged(), batch_size=4, shuffle=True))).reading
    assert reading == Reading(indices_known=False)


def test_images_that_cannot_be_read_are_said_in_one_line():
    class Damaged(Again):
        def __getitem__(self, index):
            raise OSError("image file is truncated")

    message = (
        "images of the loader must be readable, got OSError: image file is truncated; leave out those that are not:"
        " dv.skip_bad(dataset)"
    )
    assert (
        message_of(InputError, lambda: extract(split_head(make_net()), DataLoader(Damaged(), batch_size=4))) == message
    )


class ShuffledStream(IterableDataset):
    """Gives every image in every worker, in an order of its own."""

    def __iter__(self):
        worker = get_worker_info()
        places = torch.randperm(6, generator=torch.Generator().manual_seed(worker.id if worker else 0))
        return iter([(IMAGES[place], LABELS[place]) for place in places])


@pytest.mark.slow
def test_a_stream_that_each_worker_gives_in_another_order_is_refused():
    loader = DataLoader(ShuffledStream(), batch_size=4, num_workers=2)
    message = message_of(InputError, lambda: extract(split_head(make_net()), loader))
    assert message.startswith("loader must give each image once, got each image 2 times by 2 workers; shard the stream")


def test_names_of_classes_are_numbered_where_they_are_known():
    names = ("owl", "ant", "bee")
    batch = (IMAGES, [names[label] for label in LABELS])
    assert torch.equal(extract(split_head(make_net()), [batch], class_names=names).labels, LABELS)
    mapping = {name: number for number, name in reversed(list(enumerate(names)))}
    found = diagnose_model(make_net(), [batch], [batch], class_names=mapping, top_k=3)
    assert (found.class_names, found["count"].tolist()) == (names, [2, 2, 2])
