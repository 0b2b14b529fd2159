"use strict";
// Search the rows of a table and of the folded table below it. The page can be read without this script.
for (const box of document.querySelectorAll(".search")) {
  const place = document.getElementById(box.dataset.place);
  const field = box.querySelector("input");
  const status = box.querySelector("output");
  const rest = place.querySelector("details");
  const rows = [...place.querySelectorAll("tbody tr")];
  const plain = (text) => text.normalize("NFKC").toLowerCase().trim();
  const names = rows.map((row) => {
    const name = row.cells[0].querySelector("bdi");
    return plain(name ? name.title || name.textContent : "");
  });
  box.hidden = false;
  field.addEventListener("input", () => {
    const wanted = plain(field.value);
    let found = 0;
    rows.forEach((row, number) => {
      const gap = row.classList.contains("gap");
      row.hidden = wanted !== "" && (gap || !names[number].includes(wanted));
      found += !gap && !row.hidden;
    });
    if (rest) rest.open = wanted !== "";
    status.textContent = wanted === "" ? "" : `${found} found`;
  });
}
// Paper cannot unfold: print folded findings too.
const folded = () => [...document.querySelectorAll("details.printed")];
addEventListener("beforeprint", () => folded().forEach((one) => { one.dataset.was = one.open; one.open = true; }));
addEventListener("afterprint", () => folded().forEach((one) => { one.open = one.dataset.was === "true"; }));
