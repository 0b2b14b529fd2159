"""Digests depend on content alone: values, names, shapes and types."""

import torch

from diversify.files import atomic, digests


def test_tensors_round_trip(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "whole": base,
        "view": base[1],
        "transposed": base.t(),
        "half": base.bfloat16(),
        "flag": torch.tensor(True),
    }
    atomic.write_tensors(tmp_path / "t.safetensors", tensors, {"origin": "test"})
    read, metadata = atomic.read_tensors(tmp_path / "t.safetensors")
    assert metadata == {"origin": "test"}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_digest_depends_on_values_names_shapes_and_types_only():
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}
    digest = digests.digest_tensors(tensors)
    assert digest == digests.digest_tensors(
        {"b": torch.tensor(1), "a": torch.arange(6.0).reshape(3, 2).t().t().reshape(2, 3)}
    )
    for other in (
        {**tensors, "b": torch.tensor(2)},
        {**tensors, "a": tensors["a"].reshape(3, 2)},
        {**tensors, "b": torch.tensor(1, dtype=torch.int32)},
        {"a": tensors["a"], "c": tensors["b"]},
        {"a": tensors["a"]},
    ):
        assert digests.digest_tensors(other) != digest
    assert digests.digest_tensors({"a": torch.zeros(0)}) != digests.digest_tensors({})


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert digests.sha256(tmp_path / "a").startswith("ba7816bf")


def test_digest_json_ignores_the_order_of_keys():
    assert digests.digest_json({"a": 1, "b": [2]}) == digests.digest_json({"b": [2], "a": 1})
    assert digests.digest_json({"a": 1}) != digests.digest_json({"a": 2})
