// Sorts and filters the table, and follows one trial through all plots. Without this script everything can still be read.
"use strict";
(() => {
  const table = document.querySelector("table.sortable");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];

  const key = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.k ?? cell.textContent.replaceAll(",", "").replace("%", "");
    const value = Number(text);
    return text.trim() === "" || Number.isNaN(value) ? text : value;
  };

  // Numbers before words, dashes (unknown) always last, whichever the direction.
  const compare = (a, b, sign) => {
    if (a === "–" || b === "–") return (a === "–") - (b === "–");
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
  };

  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    rows.sort((a, b) => compare(a[0], b[0], ascending ? 1 : -1));
    body.append(...rows.map(([, row]) => row));
  }));

  document.querySelector("input[type=search]").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of body.rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });

  const marks = new Map();
  for (const mark of document.querySelectorAll("[data-t], tr[data-row]")) {
    const trial = mark.dataset.t ?? mark.dataset.row;
    if (!marks.has(trial)) marks.set(trial, []);
    marks.get(trial).push(mark);
  }
  let shown = null;
  const follow = (trial) => {
    if (trial === shown) return;
    for (const mark of marks.get(shown) ?? []) mark.classList.remove("on");
    for (const mark of marks.get(trial) ?? []) mark.classList.add("on");
    document.body.classList.toggle("focus", trial !== null);
    shown = trial;
  };
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest?.("[data-t], tr[data-row]");
    follow(mark ? mark.dataset.t ?? mark.dataset.row : null);
  });
})();
