"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  for (const element of all(".js")) element.hidden = false;

  // A link to a cell opens it, and everything around it.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (!target || !target.classList.contains("body")) return;
    const cell = target.tagName === "LI" ? target : target.closest(".cell");
    cell.scrollIntoView();
    (target.tagName === "LI" ? target : cell.querySelector("summary")).focus({ preventScroll: true });
  };
  addEventListener("hashchange", reveal);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link && link.hash === location.hash) reveal();
  });

  // One cell of a map is in the order of Tab; the arrow keys go on from there.
  const move = (table, from, down, right) => {
    const rows = all("tbody tr", table).map((row) => all("td", row));
    let y = rows.findIndex((row) => row.includes(from));
    let x = rows[y].indexOf(from);
    for (;;) {
      y += down;
      x += right;
      const link = rows[y] && rows[y][x] && rows[y][x].querySelector("a");
      if (!rows[y] || !rows[y][x]) return null;
      if (link) return link;
    }
  };
  const keys = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  for (const table of all(".map")) {
    const links = all("td a", table);
    const focus = (link) => {
      for (const other of links) other.tabIndex = other === link ? 0 : -1;
    };
    if (links.length) focus(links[0]);
    table.addEventListener("focusin", (event) => links.includes(event.target) && focus(event.target));
    table.addEventListener("keydown", (event) => {
      const here = event.target.closest("td");
      let next = null;
      if (event.key in keys && here) next = move(table, here, ...keys[event.key]);
      else if (event.key === "Home") next = links[0];
      else if (event.key === "End") next = links[links.length - 1];
      else return;
      event.preventDefault();
      if (next) next.focus();
    });
  }

  const words = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (text, wanted) => wanted.every((word) => text.includes(word));
  const text = (row) => `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase();
  for (const input of all(".filter")) {
    const rows = all("tbody tr", input.closest(".packages"));
    input.addEventListener("input", () => {
      let count = 0;
      for (const row of rows) {
        row.hidden = !fits(text(row), words(input));
        count += !row.hidden;
      }
      input.closest("p").querySelector("[role=status]").textContent = `${count} of ${rows.length}`;
    });
  }

  // Which cells have which version: what somebody asks who has just heard of a bad one.
  let index = null;
  const build = () => {
    index = new Map();
    for (const table of all(".packages")) {
      const cell = table.closest(".cell");
      for (const row of all("tbody tr", table)) {
        const key = `${row.cells[0].textContent} ${row.cells[1].textContent}`;
        if (!index.has(key)) index.set(key, []);
        index.get(key).push(cell);
      }
    }
  };
  const show = (key, cells) => {
    const item = document.createElement("li");
    item.append(`${key}: `);
    for (const cell of cells.slice(0, 12)) {
      const link = document.createElement("a");
      link.href = `#${encodeURIComponent(cell.querySelector(".body").id)}`;
      link.textContent = cell.dataset.cell;
      item.append(link, " ");
    }
    if (cells.length > 12) item.append(`and ${cells.length - 12} more`);
    return item;
  };
  const find = document.getElementById("find");
  const found = document.getElementById("found");
  find.form.addEventListener("submit", (event) => event.preventDefault());
  find.addEventListener("input", () => {
    if (!index) build();
    const wanted = words(find);
    const hits = wanted.length ? [...index].filter(([key]) => fits(key.toLowerCase(), wanted)).sort() : [];
    const list = document.createElement("ul");
    for (const [key, cells] of hits.slice(0, 30)) list.append(show(key, cells));
    const said = document.createElement("p");
    said.textContent = wanted.length ? `${hits.length} found${hits.length > 30 ? ", the first 30 of them" : ""}` : "";
    found.replaceChildren(said, list);
  });

  // On paper nothing can be opened: what is closed is opened for it, and closed again.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open]):not(.packages)");
    for (const element of opened) element.open = true;
  });
  addEventListener("afterprint", () => {
    for (const element of opened) element.open = false;
  });
  if (location.hash) reveal();
})();
