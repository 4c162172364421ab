// Sorts a table by a click on a column's heading: numbers by value, texts by alphabet, blocks kept together.
// The third click brings the order of the page back. A cell without a number sorts last either way.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const bodies = [...table.tBodies];
  const original = bodies.map((body) => [...body.rows]);
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", (event) => {
      if (event.target.closest("a")) return; // a note's mark leads to the note
      const was = head.getAttribute("aria-sort");
      const now = was === "descending" ? "ascending" : was === "ascending" ? null : "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (now) head.setAttribute("aria-sort", now);
      bodies.forEach((body, index) => {
        const rows = [...original[index]];
        if (now) rows.sort((a, b) => compare(a.cells[column], b.cells[column], now));
        body.append(...rows);
      });
    });
  });
}

function compare(first, second, direction) {
  const [a, b] = [value(first), value(second)];
  const numbers = [typeof a === "number", typeof b === "number"];
  if (numbers[0] !== numbers[1]) return numbers[0] ? -1 : 1;
  const order = numbers[0] ? a - b : a.localeCompare(b);
  return direction === "ascending" ? order : -order;
}

function value(cell) {
  const text = (cell.dataset.value ?? cell.textContent).trim().replace("−", "-");
  const number = parseFloat(text);
  return Number.isNaN(number) ? text : number;
}

// A link to a run, or a printed page, must show what a closed entry holds; of runs print has their lines alone.
function reveal() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const entry = target && target.closest("details");
  if (entry) entry.open = true;
}
addEventListener("hashchange", reveal);
reveal();
addEventListener("beforeprint", () => document.querySelectorAll("details:not(.run)").forEach((entry) => (entry.open = true)));
