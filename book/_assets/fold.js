/* A table that is wider than its column is folded: each row becomes a block, each column a line of
   it with the column's name (custom.css). Without this script the table scrolls sideways.

   Roles are spelt out, since some browsers forget that a row is a row when it is shown as a block;
   the headings stay for screen readers, which therefore need not hear the labels. */
"use strict";
(() => {
  const ROLES = { "thead, tbody": "rowgroup", tr: "row", "thead th": "columnheader",
    "tbody th": "rowheader", td: "cell" };
  const text = (cell) => cell.textContent.replace(/\\[()]/g, "").replace(/\s+/g, " ").trim();
  const joined = (cells, between) => [...new Set(cells)].map(text).filter(Boolean).join(between);

  /** The rows of a part as lines of cells; one that spans rows or columns stands at each place. */
  function grid({ rows }) {
    const lines = Array.from(rows, () => []);
    lines.forEach((line, r) => {
      let c = 0;
      for (const cell of rows[r].cells) {
        while (line[c]) c++;
        for (const below of lines.slice(r, r + cell.rowSpan)) {
          for (let i = 0; i < cell.colSpan; i++) below[c + i] = cell;
        }
      }
    });
    return lines;
  }

  /** Write into each value the name of its column, and into a row's heading those of the rows
      before that hold for this row too. */
  function label(table) {
    const first = Array.from(table.tBodies[0].rows[0].cells);
    const stub = first.filter((cell) => cell.tagName === "TH").length; // columns of row headings
    const names = [];
    for (const line of grid(table.tHead)) {
      const corner = line.slice(0, stub);
      if (!line.slice(stub).some(text)) continue; // it names the row headings, and stays to be seen
      line.forEach((cell, c) => {
        cell.classList.add("column");
        (names[c] ??= []).push(...(c < stub ? [] : corner), cell);
      });
    }
    for (const part of table.tBodies) {
      grid(part).forEach((line, r) => {
        for (const cell of part.rows[r].cells) {
          const c = line.indexOf(cell);
          const shared = line.slice(0, c).filter((other) => other.parentElement !== cell.parentElement);
          cell.dataset.label = cell.tagName === "TD" ? joined(names[c] ?? [], " ") : joined(shared, ", ");
        }
      });
    }
  }

  function fit(table) {
    table.classList.remove("folded");
    table.classList.toggle("folded", table.scrollWidth > table.clientWidth + 1);
  }

  function start() {
    const seen = new ResizeObserver((changed) => {
      requestAnimationFrame(() => changed.forEach(({ target }) => fit(target)));
    });
    for (const table of document.querySelectorAll("article table")) {
      if (table.closest(".answer, .vcq")) continue; // they have ways of their own
      if (!table.tHead || !table.tBodies[0]?.rows.length) continue; // nothing to name, or nothing named
      label(table);
      table.setAttribute("role", "table");
      for (const [parts, role] of Object.entries(ROLES)) {
        for (const part of table.querySelectorAll(parts)) part.setAttribute("role", role);
      }
      table.removeAttribute("tabindex"); // it is there to scroll with the keyboard
      fit(table);
      seen.observe(table); // a turned phone, an opened solution, a formula that has been set
    }
  }

  if (document.readyState !== "loading") start();
  else document.addEventListener("readystatechange", start, { once: true }); // formulas are text yet
})();
