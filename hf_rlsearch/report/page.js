// Draws the charts, and links them and the table by one set of picked trials. Tables and text can be read without it.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const table = document.querySelector("table.sortable");
  const heads = [...table.tHead.rows[0].cells];
  const rows = new Map([...table.tBodies[0].rows].map((row) => [Number(row.dataset.trial), row]));
  const numbers = new Map(page.data.trials.map((row) => [row.trial, row.numbers]));
  const views = new Map(); // name of a chart -> its Vega view

  // ---- one set of picked trials; the trial under the pointer goes before it as long as it is there
  let picked = [];
  let hovered = [];

  const show = () => {
    const shown = hovered.length ? hovered : picked;
    for (const [trial, row] of rows) {
      row.classList.toggle("on", shown.includes(trial));
      row.classList.toggle("off", shown.length > 0 && !shown.includes(trial));
    }
    for (const [name, view] of views) if (linked(name)) view.signal("picked", shown).runAsync();
  };

  const pick = (trials, owner = null) => {
    picked = [...new Set(trials)].sort((a, b) => a - b);
    for (const [name, view] of views) if (linked(name) && name !== owner) clearBrush(view);
    const bar = document.getElementById("picked");
    bar.hidden = picked.length === 0;
    const listed = picked.slice(0, 12).join(", ") + (picked.length > 12 ? " …" : "");
    bar.querySelector("span").textContent = picked.length === 1 ? `Trial ${listed}` : `${picked.length} trials: ${listed}`;
    show();
  };

  const toggle = (trial) => pick(picked.includes(trial) ? picked.filter((t) => t !== trial) : [...picked, trial]);

  const hover = (trials) => {
    if (String(trials) === String(hovered)) return;
    hovered = trials;
    show();
  };

  // ---- charts
  const linked = (name) => page.charts[name].spec.params?.some((param) => param.name === "picked");

  const trialsOf = (datum) => datum?.trials ?? (datum?.trial === undefined ? [] : [datum.trial]);

  const clearBrush = (view) => view.signal("brush_x", []).signal("brush_y", []).runAsync();

  // The trials that have a mark, or a corner of a line, inside of a rectangle in pixels of the data area.
  const trialsInside = (view, [left, right], [top, bottom]) => {
    const found = [];
    const visit = (mark) => {
      for (const item of mark.items ?? []) {
        if (mark.marktype === "group") item.items.forEach(visit);
        if (mark.marktype === "group" || mark.marktype === "rule") continue;
        const [x, y] = [item.x ?? 0, item.y ?? 0];
        const inside = x <= right && x + (item.width ?? 0) >= left && y <= bottom && y + (item.height ?? 0) >= top;
        if (inside && item.opacity !== 0) found.push(...trialsOf(item.datum));
      }
    };
    visit(view.scenegraph().root);
    return found;
  };

  const brushed = (name, view) => {
    const [x, y] = [view.signal("brush_x"), view.signal("brush_y")].map((ends) => [...ends].sort((a, b) => a - b));
    if (x.length && y.length && x[0] !== x[1]) pick(trialsInside(view, x, y), name);
  };

  // All values of a trial, as in its row of the table, and every number that is known of it beside.
  const tip = (value, toText) => {
    const { trial, ...own } = Object(value);
    const row = rows.get(Number(trial));
    const lines = Object.entries(own);
    if (row) {
      heads.forEach((head, i) => lines.push([head.textContent, row.cells[i].textContent]));
      const known = new Set(lines.map(([name]) => name));
      const others = Object.entries(numbers.get(Number(trial)) ?? {}).filter(([name]) => !known.has(name) && !/share|seconds|MB/.test(name));
      for (const [name, number] of others) lines.push([name, Number(number.toPrecision(4))]);
    }
    return `<table>${lines.map(([name, text]) => `<tr><th>${toText(name)}</th><td>${toText(text)}</td></tr>`).join("")}</table>`;
  };

  const draw = async (place) => {
    const name = place.dataset.chart;
    const { spec, data } = page.charts[name];
    const narrow = innerWidth < 600;
    const config = structuredClone(page.themes[dark.matches ? "dark" : "light"]);
    if (narrow) config.legend.columns = 3;
    const datasets = Object.fromEntries(data.map((key) => [key, structuredClone(page.data[key])]));
    views.get(name)?.finalize();
    const { view } = await vegaEmbed(place, { ...spec, datasets }, {
      mode: "vega-lite",
      renderer: "svg",
      config,
      actions: { export: true, source: false, compiled: false, editor: false },
      downloadFileName: name,
      tooltip: { theme: dark.matches ? "dark" : "light", formatTooltip: tip },
    });
    views.set(name, view);
    place.view = view;
    view.addEventListener("pointerover", (_, item) => hover(trialsOf(item?.datum)));
    view.addEventListener("pointerout", () => hover([]));
    view.addEventListener("click", (event, item) => {
      const trials = trialsOf(item?.datum);
      if (trials.length) pick(event.ctrlKey || event.metaKey ? [...picked, ...trials] : trials);
    });
    view.addEventListener("dblclick", () => pick([]));
    if (linked(name)) {
      let timer;
      view.addSignalListener("brush", () => {
        clearTimeout(timer);
        timer = setTimeout(() => brushed(name, view), 60);
      });
    }
  };

  const drawAll = async () => {
    for (const place of document.querySelectorAll("[data-chart]")) await draw(place);
    document.documentElement.dataset.drawn = dark.matches ? "dark" : "light";
    show();
  };

  // ---- table: sort, filter, pick
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
    const keyed = [...rows.values()].map((row) => [key(row, column), row]);
    keyed.sort((a, b) => compare(a[0], b[0], ascending ? 1 : -1));
    table.tBodies[0].append(...keyed.map(([, row]) => row));
  }));

  document.querySelector("input[type=search]").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows.values()) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });

  for (const mark of document.querySelectorAll("[data-trial]")) {
    const trial = Number(mark.dataset.trial);
    mark.addEventListener("pointerenter", () => hover([trial]));
    mark.addEventListener("pointerleave", () => hover([]));
    if (mark.tagName === "TR") mark.addEventListener("click", () => toggle(trial));
  }
  document.querySelector("#picked button").addEventListener("click", () => pick([]));
  document.addEventListener("keydown", (event) => event.key === "Escape" && pick([]));

  dark.addEventListener("change", drawAll);
  drawAll();
})();
