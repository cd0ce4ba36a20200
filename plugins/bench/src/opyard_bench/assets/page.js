"use strict";
// Sorts and filters the tables, and shows the row that a mark stands for. Without it the page is complete.
{
  const rows = [...document.querySelectorAll(".rows tbody tr")];
  const units = { ns: 1e-9, us: 1e-6, ms: 1e-3 };

  // A call stands in the first row of its kernels alone: repeat it, so that rows can be told apart when they are sorted.
  rows.reduce((above, { cells: [call] }) => {
    if (call.childNodes.length) return call;
    call.append(...[...above.childNodes].map((node) => node.cloneNode(true)));
    call.className = "again";
    return above;
  }, null);

  const valueOf = (row, column) => {
    const text = row.cells[column].textContent;
    const found = /^[\d.]+(e[+-]?\d+)?(?: (\w+)|$)?/.exec(text);
    return found && Number.isFinite(parseFloat(text)) ? parseFloat(text) * (units[found[2]] ?? 1) : text;
  };

  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));

  const sort = (table, column, head) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const pairs = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
    pairs.sort(([a], [b]) => (a === "") - (b === "") || (down ? compare(b, a) : compare(a, b)));
    table.tBodies[0].append(...pairs.map(([, row]) => row));
  };

  for (const table of document.querySelectorAll(".sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column, head));
      head.append(button);
    });
  }

  for (const table of document.querySelectorAll(".rows")) {
    const field = document.createElement("input");
    Object.assign(field, { type: "search", className: "filter", placeholder: "Show rows with these words" });
    field.setAttribute("aria-label", `${table.caption.textContent}: show rows with these words`);
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/);
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
    table.parentElement.before(field);
  }

  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);

  const describe = (row) => {
    const heads = row.closest("table").tHead.rows[0].cells;
    return [...row.cells]
      .map((cell, column) => (cell.textContent ? `${heads[column].textContent}: ${cell.textContent}` : ""))
      .filter(Boolean)
      .join("\n");
  };

  const show = (event) => {
    const mark = event.target.closest?.("[data-r]");
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = describe(rows[mark.dataset.r]);
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - box.width - 4))}px`;
    tip.style.top = `${event.clientY + 16 + box.height > innerHeight ? Math.max(4, event.clientY - box.height - 12) : event.clientY + 16}px`;
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("scroll", () => (tip.hidden = true), { passive: true });

  document.addEventListener("click", (event) => {
    const mark = event.target.closest?.("[data-r]");
    if (!mark || matchMedia("(hover: none)").matches) return;
    document.querySelector(".hit")?.classList.remove("hit");
    const row = rows[mark.dataset.r];
    row.hidden = false;
    row.classList.add("hit");
    row.scrollIntoView({ block: "center" });
  });

  // The browser's own hint for the title of an image would cover ours.
  for (const title of document.querySelectorAll("svg > title")) {
    const image = title.parentElement;
    image.setAttribute("aria-label", `${title.textContent}: ${image.querySelector("desc").textContent}`);
    image.removeAttribute("aria-labelledby");
    title.remove();
  }

  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
}
