"use strict";

/* Draws what is too large to stand in the page (labels, their hierarchy), and lets tables be sorted.
   Text enters the document as text alone, by textContent. */

const data = JSON.parse(document.getElementById("data").textContent);
const ROWS = 50; // of the label table that are shown at once
const CHILDREN = 200; // of a node that are shown at once
const OPENED = 30; // nodes that are open from the start, at most

/** Return an element; `attributes` without a value (undefined) are left out. */
function make(name, attributes = {}, ...content) {
  const svg = name === "svg" || name === "rect";
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined) element.setAttribute(key, value);
  element.append(...content);
  return element;
}

/** Return a score of 0 to 1 as a bar. */
function bar(score) {
  const svg = make("svg", { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(make("rect", { class: "track", width: 100, height: 8 }));
  svg.append(make("rect", { class: "filled", width: 100 * (score ?? 0), height: 8 }));
  return svg;
}

/** Return a number as it is shown; a count may be a fraction where labels are soft. */
function shown(value, count) {
  if (value === null) return "–";
  return count ? value.toLocaleString("en", { maximumFractionDigits: 1 }) : value.toFixed(3);
}

/** Return how two values are ordered, those that are missing (null) last whatever the direction. */
function compare(one, other, direction) {
  if (one === null || other === null) return (one === null) - (other === null);
  return direction * (one < other ? -1 : one > other ? 1 : 0);
}

/** Return the place of each text in their order, which takes numbers within them as numbers. */
function ranks(texts) {
  const collator = new Intl.Collator("en", { numeric: true });
  const order = Array.from(texts.keys()).sort((one, other) => collator.compare(texts[one], texts[other]));
  const places = new Int32Array(texts.length);
  order.forEach((at, place) => {
    const before = order[place - 1];
    places[at] = place && collator.compare(texts[before], texts[at]) === 0 ? places[before] : place;
  });
  return places;
}

/** Turn a heading into a button that sorts; numbers begin with the largest. `sort` is given 1 or -1. */
function sorter(heading, numbers, sort) {
  const button = make("button", { type: "button" }, make("span", {}, ...heading.childNodes));
  heading.append(button);
  button.addEventListener("click", () => {
    const before = heading.getAttribute("aria-sort");
    const ascending = before ? before === "descending" : !numbers;
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    sort(ascending ? 1 : -1);
  });
}

/** Let the rows of a table that stands in the page be sorted. */
function sortable(table) {
  const body = table.tBodies[0];
  [...table.tHead.rows[table.tHead.rows.length - 1].cells].forEach((heading, at) => {
    const cells = [...body.rows].map((row) => row.cells[at]);
    const numbers = cells.some((cell) => cell.dataset.value !== undefined);
    if (numbers) heading.classList.add("number");
    sorter(heading, numbers, (direction) => {
      const rows = [...body.rows];
      const texts = rows.map((row) => row.cells[at].textContent);
      const given = rows.map((row) => row.cells[at].dataset.value);
      const values = numbers ? given.map((value) => (value === undefined ? null : Number(value))) : ranks(texts);
      const order = [...rows.keys()].sort((one, other) => compare(values[one], values[other], direction) || one - other);
      body.append(...order.map((row) => rows[row]));
    });
  });
}

/** Draw the table of labels: a window of `ROWS` rows of those that the filter lets through, in the order chosen. */
function labelTable(holder, labels) {
  const { names, descriptions, columns } = labels;
  const described = descriptions.some((text) => text);
  const sought = names.map((name, label) => `${name}\n${descriptions[label]}`.toLowerCase());
  let all = Int32Array.from(names.keys());
  let found = all;
  let start = 0;

  const filter = make("input", { type: "search", id: "label-filter", placeholder: "name or description", autocomplete: "off", spellcheck: "false" });
  const status = make("p", { class: "status", role: "status" });
  const body = make("tbody");
  const headings = make("tr");
  const table = make("table", { class: "labels-table" }, make("caption", {}, "Labels"), make("thead", {}, headings), body);
  const back = make("button", { type: "button" }, "‹ before");
  const next = make("button", { type: "button" }, "next ›");

  function draw() {
    const stop = Math.min(start + ROWS, found.length);
    const rows = [];
    for (const label of found.subarray(start, stop)) {
      const row = make("tr", {}, make("th", { scope: "row" }, names[label]));
      if (described) row.append(make("td", { class: "description", title: descriptions[label] }, descriptions[label]));
      for (const { key, count, values } of columns) {
        const cell = make("td", { class: "number" }, shown(values[label], count));
        if (key === "f1") cell.append(bar(values[label]));
        row.append(cell);
      }
      rows.push(row);
    }
    body.replaceChildren(...rows);
    const total = names.length.toLocaleString("en");
    const range = found.length ? `${(start + 1).toLocaleString("en")}–${stop.toLocaleString("en")} of ` : "";
    status.textContent = `${range}${found.length.toLocaleString("en")} labels${found.length < names.length ? ` found among ${total}` : ""}`;
    back.disabled = start === 0;
    next.disabled = stop === found.length;
    back.hidden = next.hidden = found.length <= ROWS;
  }

  function select() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = words.length ? all.filter((label) => words.every((word) => sought[label].includes(word))) : all;
    start = 0;
    draw();
  }

  function heading(title, numbers, values) {
    const cell = make("th", { scope: "col", class: numbers ? "number" : undefined }, title);
    headings.append(cell);
    sorter(cell, numbers, (direction) => {
      const of = values();
      all = Int32Array.from(names.keys()).sort((one, other) => compare(of[one], of[other], direction) || one - other);
      select();
    });
  }

  const texts = new Map();
  const ranked = (list) => () => texts.get(list) ?? texts.set(list, ranks(list)).get(list);
  heading("label", false, ranked(names));
  if (described) heading("description", false, ranked(descriptions));
  for (const { title, values } of columns) heading(title, true, () => values);
  if (!described) table.classList.add("bare");

  back.addEventListener("click", () => { start -= ROWS; draw(); });
  next.addEventListener("click", () => { start += ROWS; draw(); });
  filter.addEventListener("input", select);
  const wide = make("div", { class: "wide window", role: "region", "aria-label": "Labels", tabindex: "0" }, table);
  const tools = make("div", { class: "tools" }, make("label", { for: "label-filter" }, "Filter"), filter, status, back, next);
  holder.append(tools, wide);
  draw();
}

/** Draw the hierarchy: the children of a node are drawn when it is opened. Keys are those of a tree (WAI-ARIA). */
function labelTree(holder, labels) {
  const { names, descriptions, columns, edges } = labels;
  const below = names.map(() => []);
  const isChild = new Uint8Array(names.length);
  edges.children.forEach((child, at) => { below[edges.parents[at]].push(child); isChild[child] = 1; });
  const roots = [...names.keys()].filter((label) => !isChild[label]);
  const scores = columns.filter(({ key }) => ["f1", "average_precision", "precision", "recall"].includes(key));
  scores.sort((one, other) => (other.key === "f1") - (one.key === "f1"));
  const support = columns.find(({ key }) => key === labels.split) ?? columns[0];
  let score = scores[0];

  function said(label) {
    const parts = [names[label]];
    if (score) parts.push(`${score.title} ${shown(score.values[label], false)}`);
    return [...parts, `${shown(support.values[label], true)} ${support.key} examples`].join(", ");
  }

  /** Return what a node shows of its label's score. */
  function measures(label) {
    const parts = score ? [bar(score.values[label]), make("span", { class: "score" }, shown(score.values[label], false))] : [];
    return [...parts, make("span", { class: "support" }, shown(support.values[label], true))];
  }

  function node(label, level) {
    const inner = below[label].length > 0;
    const line = make("div", { class: "node" }, make("span", { class: "twist", "aria-hidden": "true" }), make("span", { class: "name" }, make("b", {}, names[label]), make("span", {}, descriptions[label])), make("span", { class: "measures" }, ...measures(label)));
    const item = make("li", { role: "treeitem", tabindex: "-1", "aria-level": level, "aria-label": said(label), "aria-expanded": inner ? "false" : undefined }, line);
    item.label = label;
    return item;
  }

  /** Return nodes of labels from a place on, and where they are too many one that draws the others. */
  function nodes(group, level, from = 0) {
    const drawn = group.slice(from, from + CHILDREN).map((label) => node(label, level));
    if (group.length > from + CHILDREN) {
      const more = make("li", { role: "treeitem", tabindex: "-1", "aria-level": level }, make("div", { class: "node" }, make("span", { class: "twist" }), `show more of the other ${(group.length - from - CHILDREN).toLocaleString("en")}`));
      more.others = () => nodes(group, level, from + CHILDREN);
      drawn.push(more);
    }
    return drawn;
  }

  function toggle(item, open = item.getAttribute("aria-expanded") === "false") {
    if (item.others) {
      const others = item.others();
      item.replaceWith(...others);
      focus(others[0]);
      return;
    }
    if (!item.hasAttribute("aria-expanded")) return;
    if (open && !item.querySelector(":scope > ul")) {
      const level = Number(item.getAttribute("aria-level")) + 1;
      item.append(make("ul", { role: "group" }, ...nodes(below[item.label], level)));
    }
    item.setAttribute("aria-expanded", String(open));
  }

  function focus(item) {
    if (!item) return;
    for (const other of tree.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    item.tabIndex = 0;
    item.focus();
  }

  const tree = make("ul", { role: "tree", "aria-label": "Hierarchy of labels" }, ...nodes(roots, 1));
  tree.querySelector("li").tabIndex = 0;
  tree.addEventListener("click", (event) => {
    const item = event.target.closest("li");
    if (!item) return;
    focus(item);
    toggle(item);
  });
  tree.addEventListener("keydown", (event) => {
    const item = event.target.closest("li");
    if (!item || event.altKey || event.ctrlKey || event.metaKey) return;
    const visible = [...tree.querySelectorAll("li")].filter((each) => each.offsetParent !== null);
    const at = visible.indexOf(item);
    const open = item.getAttribute("aria-expanded") === "true";
    const actions = {
      ArrowDown: () => focus(visible[at + 1]),
      ArrowUp: () => focus(visible[at - 1]),
      Home: () => focus(visible[0]),
      End: () => focus(visible[visible.length - 1]),
      ArrowRight: () => (open ? focus(item.querySelector("li")) : toggle(item, true)),
      ArrowLeft: () => (open ? toggle(item, false) : focus(item.parentElement.closest("li"))),
      Enter: () => toggle(item),
      " ": () => toggle(item),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  });

  const tools = make("div", { class: "tools" });
  if (scores.length) {
    const choice = make("select", { id: "tree-score" }, ...scores.map(({ title }) => make("option", {}, title)));
    choice.addEventListener("change", () => {
      score = scores[choice.selectedIndex];
      for (const item of tree.querySelectorAll("li")) {
        if (item.others) continue;
        item.querySelector(".measures").replaceChildren(...measures(item.label));
        item.setAttribute("aria-label", said(item.label));
      }
    });
    tools.append(make("label", { for: "tree-score" }, "Score"), choice);
  }
  tools.append(make("p", { class: "status" }, `and ${support.key} examples`));
  holder.append(tools, tree);
  let room = OPENED - roots.length;
  for (const item of [...tree.children]) {
    room -= item.others ? OPENED : below[item.label].length;
    if (room < 0) break;
    toggle(item, true);
  }
}

if (data.labels) {
  labelTable(document.getElementById("label-table"), data.labels);
  const holder = document.getElementById("label-tree");
  if (holder) labelTree(holder, data.labels);
}
for (const table of document.querySelectorAll("table.sortable")) sortable(table);

/* Paper shows what is folded, but for definitions and what is there for machines. */
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")].filter((each) => each.className === "fold");
  for (const each of folded) each.open = true;
});
addEventListener("afterprint", () => { for (const each of folded) each.open = false; });
