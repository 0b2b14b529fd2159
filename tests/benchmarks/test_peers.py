"""The table of comparisons with other packages."""

from benchmarks import peers
from diversify.files import atomic


def test_a_row_that_is_behind_says_why_and_one_ahead_does_not(tmp_path):
    results = tmp_path / "peers.jsonl"
    for name, ratio in (("faiss", 0.5), ("kornia", 2.0), ("smote", 0.5)):
        times = {"seconds_ours": [1.0, 1.0, 1.0], "seconds_bare": [ratio] * 3, "peer": "some", "peer_version": "1.2"}
        ratios = {"ratio_median": ratio, "ratio_lowest": ratio, "ratio_highest": ratio}
        record = {"figure": name, "what": name, "why": peers.ROWS[name].why, **times, **ratios}
        atomic.append_jsonl(results, record)
    lines = {line.split("|")[2].strip(): line for line in peers.table(results).splitlines()}
    assert lines["faiss"].endswith(f"| 0.50 (0.50 to 0.50) | {peers.ROWS['faiss'].why} |")
    assert lines["kornia"].endswith("| 2.00 (2.00 to 2.00) |  |")
    assert "the reason is not known" in lines["smote"]


def test_a_package_that_is_not_installed_is_skipped_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "version_of", lambda _: None)
    peers.main(["kornia", "adasyn"], tmp_path / "peers.jsonl")
    assert "kornia: skipped, kornia is not installed" in capsys.readouterr().out
    (record,) = atomic.read_jsonl(tmp_path / "peers.jsonl")
    assert record["figure"] == "adasyn"
    assert "no equivalent" in peers.table(tmp_path / "peers.jsonl")
