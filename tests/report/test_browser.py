"""The report in a headless browser: it loads nothing from outside, logs no error, and can be used.

Skipped if no Chromium is installed.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from conftest import NAMES, repeated
from PIL import Image

from diversify.data.images import ImageArray
from diversify.diagnosis.choose_exhibits import choose_exhibits
from diversify.diagnosis.measure import diagnose
from diversify.diagnosis.model_comparison import Model, compare_models
from diversify.diagnosis.result import Diagnosis
from diversify.functional import draws
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.report import comparison
from diversify.report import diagnosis as report_diagnosis
from diversify.report.thumbnails import take_pictures

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

HOSTILE = ("<script>document.title = 'taken'</script>", '" onmouseover="document.title = 1', "猫 &lt;", "{{ 7 * 7 }}")
WIDTHS = (360, 768, 1280)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


def colours(rows: int, name: str) -> ImageArray:
    cells = torch.arange(rows * 3 * 12 * 12).view(rows, 3, 12, 12)
    return ImageArray((draws.uniform(name, cells) * 255).to(torch.uint8), torch.zeros(rows, dtype=torch.int64))


def written(
    folder: Path,
    diagnosis: Diagnosis,
    sides: tuple[Embeddings, Embeddings, LinearHead],
    run: dict[str, object],
    *,
    exhibits: bool = True,
) -> Path:
    train, heldout, head = sides
    found = None
    if exhibits:
        found = choose_exhibits(train, heldout, head=head, diagnosis=diagnosis)
        found = take_pictures(found, colours(len(train), "train"), colours(len(heldout), "heldout"))
    path = folder / "report.html"
    path.write_text(report_diagnosis.render_html(diagnosis, run, found), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(
    tmp_path_factory: pytest.TempPathFactory,
    diagnosis: Diagnosis,
    sides: tuple[Embeddings, Embeddings, LinearHead],
) -> Path:
    return written(tmp_path_factory.mktemp("report"), diagnosis, sides, {"duplicates": {"count": 2, "same_label": 1}})


def test_the_browser_sees_what_a_bad_page_does(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    text = '<p>x</p><img src="none.png"><script>console.error("oh"); throw new Error("ah")</script>'
    bad.write_text(f"<!DOCTYPE html><title>bad</title><div style='width:2000px'>{text}</div>", encoding="utf-8")
    browser.show(bad, width=360)
    assert any("oh" in each for each in browser.complaints)
    assert any("ah" in each for each in browser.complaints)
    assert any(address.endswith("none.png") for address in browser.requests)
    assert browser.run("[...document.images].every(one => one.complete && one.naturalWidth > 0)") is False
    assert browser.run("document.documentElement.scrollWidth > document.documentElement.clientWidth") is True


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_loads_alone_and_fits(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.show(page, width=width, dark=dark)
    assert browser.complaints == []
    outside = [address for address in browser.requests if not address.startswith("data:") and address != page.as_uri()]
    assert outside == []
    images = browser.run("[...document.images].map(one => one.complete && one.naturalWidth > 0)")
    assert len(images) > 20
    assert all(images)
    assert all(browser.run("[...document.images].map(one => one.alt.length > 5)"))
    assert browser.run("document.documentElement.scrollWidth") == browser.run("document.documentElement.clientWidth")
    picture = np.asarray(Image.open(io.BytesIO(browser.picture())).convert("L"), dtype=np.float64)
    assert picture.shape[1] == width
    assert (picture.mean() < 100) == dark
    assert picture.std() > 15


def test_each_section_is_there_and_the_contents_lead_to_it(browser: Browser, page: Path) -> None:
    browser.show(page)
    wanted = [
        "findings",
        "classes",
        "coverage",
        "size",
        "top-k",
        "diversity",
        "neighbors",
        "head",
        "labels",
        "images",
        "beyond",
        "meanings",
        "origin",
    ]
    assert browser.run("[...document.querySelectorAll('h2')].map(one => one.id)") == wanted
    assert browser.run("[...document.querySelectorAll('nav a')].map(one => one.hash.slice(1))") == wanted
    heights = "[...document.querySelectorAll('section')].map(one => one.getBoundingClientRect().height)"
    assert min(browser.run(heights)) > 100
    assert browser.run("document.querySelectorAll('.banner').length") == 1
    missing = (
        "[...document.querySelectorAll('thead a')].filter(one => !document.getElementById(one.hash.slice(1))).length"
    )
    assert browser.run(missing) == 0


def test_the_keyboard_reaches_everything(browser: Browser, page: Path) -> None:
    browser.show(page)
    seen = []
    for _ in range(60):
        browser.press("Tab")
        seen.append(browser.run("document.activeElement.tagName + ' ' + (document.activeElement.hash || '')"))
    assert seen[:3] == ["A #findings", "A #classes", "A #coverage"]
    assert any(each.startswith("DIV") for each in seen)  # tables that scroll
    assert "A #measure-recall-heldout" in seen
    browser.run("document.querySelector('nav a[href=\"#images\"]').focus()")
    browser.press("Enter")
    assert browser.run("location.hash") == "#images"


def test_hostile_names_stay_text(
    browser: Browser, tmp_path: Path, sides: tuple[Embeddings, Embeddings, LinearHead]
) -> None:
    train, heldout, head = sides
    names = (*NAMES[:6], *HOSTILE)
    made = diagnose(train, heldout, head=head, class_names=names, top_k=5)
    browser.show(written(tmp_path, made, sides, {}))
    assert browser.complaints == []
    assert browser.run("document.title") == "Diagnosis of a network"
    assert browser.run("document.scripts.length") == 1
    text = browser.run("document.body.textContent")
    assert all(name in text for name in HOSTILE)


@pytest.mark.parametrize("width", [360, 1280])
def test_long_names_do_not_widen_the_page_and_are_found_whole(
    browser: Browser, tmp_path: Path, sides: tuple[Embeddings, Embeddings, LinearHead], width: int
) -> None:
    train, heldout, head = sides
    names = tuple(f"{c:05}_Animalia_Arthropoda_Insecta_Lepidoptera_Nymphalidae_Species_number{c}" for c in range(8))
    names = (*names, "e" + "\u0301" * 60, "x" * 10_000)
    made = repeated(diagnose(train, heldout, head=head, class_names=names, top_k=5), [*range(10)] * 2, names * 2)
    browser.show(written(tmp_path, made, sides, {}, exhibits=False), width=width)
    assert browser.complaints == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.run("document.querySelector('.search input').focus()")
    browser.type("NUMBER7")
    assert browser.run("document.querySelector('.search output').textContent") == "2 found"


def test_a_thousand_classes_can_be_searched(browser: Browser, tmp_path: Path, many: Diagnosis) -> None:
    path = tmp_path / "many.html"
    path.write_text(report_diagnosis.render_html(many, {}), encoding="utf-8")
    assert path.stat().st_size < 5_000_000
    browser.show(path)
    assert browser.complaints == []
    rows = "[...document.querySelectorAll('#table-of-classes tbody tr:not(.gap)')]"
    shown = f"{rows}.filter(one => one.checkVisibility()).length"
    assert browser.run(shown) == 30
    assert browser.run(f"{rows}.length") == 1000
    browser.run("document.querySelector('.search input').focus()")
    browser.type("CLASS 77")
    assert browser.run(f"{rows}.filter(one => !one.hidden && one.checkVisibility()).length") == 11  # 77, 770 ... 779
    assert browser.run("document.querySelector('.search output').textContent") == "11 found"
    browser.run(
        "{ const one = document.querySelector('.search input'); one.value = ''; one.dispatchEvent(new Event('input')) }"
    )
    assert browser.run(shown) == 30


def test_paper_has_everything_but_what_cannot_be_used_there(browser: Browser, page: Path) -> None:
    browser.show(page, width=760, paper=True)
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.run("document.querySelector('#meanings').closest('section').getBoundingClientRect().height") > 200
    assert browser.run("document.documentElement.scrollWidth") <= 761  # a border may round up
    assert browser.pdf().startswith(b"%PDF")


@pytest.mark.parametrize("width", WIDTHS)
def test_two_models_side_by_side(
    browser: Browser, tmp_path: Path, sides: tuple[Embeddings, Embeddings, LinearHead], width: int
) -> None:
    train, heldout, head = sides
    other = LinearHead(weight=head.weight * 0.9, bias=head.bias * torch.linspace(0.2, 1.8, 10))
    models = [
        Model(
            name=name,
            head=one,
            **{
                side: Embeddings(
                    features=of.features, labels=of.labels, logits=one.logits(of.features), indices=of.indices
                )
                for side, of in (("train", train), ("heldout", heldout))
            },
        )
        for name, one in (("plain", head), ("<b>other", other))
    ]
    made = compare_models(*models, class_names=NAMES, shared_start=True, top_k=5)
    path = tmp_path / "comparison.html"
    path.write_text(comparison.render_comparison_html(made, {}), encoding="utf-8")
    browser.show(path, width=width)
    assert browser.complaints == []
    assert browser.requests == [path.as_uri()]
    wanted = ["findings", "classes", "recall", "top-k", "diversity", "meanings", "origin"]
    assert browser.run("[...document.querySelectorAll('h2')].map(one => one.id)") == wanted
    assert browser.run("document.querySelectorAll('figure svg').length") == 6
    assert browser.run("document.documentElement.scrollWidth") == browser.run("document.documentElement.clientWidth")
