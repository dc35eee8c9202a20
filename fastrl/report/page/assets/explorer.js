// The list of rows and the selected row. Only visible rows are in the document.
const ROW = 28, MARGIN = 8, MOST_OPTIONS = 1000;
const WIDTHS = { count: "minmax(2rem, 3.1rem)", number: "minmax(2.6rem, 3.5rem)", outcome: "minmax(4.2rem, 5.9rem)", text: "minmax(6rem, 1fr)" };

class Explorer {
  constructor(table) {
    this.table = table;
    this.rows = table.rows;
    this.order = this.rows.map((_, i) => i);
    this.chosen = {};
    this.sorted = { key: null, down: false };
    this.place = 0;
    this.pattern = null;
    this.values = new Map();
    this.node = el("div", { class: "explorer-all" }, this.toolbar(), el("div", { class: "explorer" }, this.list(), this.detail()));
    this.node.style.setProperty("--columns", table.columns.map((column) => WIDTHS[column.kind]).join(" "));
    new ResizeObserver(() => this.draw()).observe(this.view);
    this.update();
  }

  toolbar() {
    let waiting = 0;
    this.search = el("input", { type: "search", placeholder: "Search all texts", "aria-label": "Search prompts, completions and continuations", "aria-keyshortcuts": "/",
      oninput: () => { clearTimeout(waiting); waiting = setTimeout(() => this.update(), 120); } });
    this.selects = new Map(this.table.facets.map((facet) => [facet.key, this.select(facet)]));
    this.toggles = new Map();
    const toggles = [];
    for (const facet of this.table.facets) {
      for (const [value, key] of Object.entries(facet.keys)) {
        if (!this.rows.some((row) => row[facet.key] === value)) continue;
        const button = el("button", { type: "button", "aria-pressed": "false", "aria-keyshortcuts": key, onclick: () => this.toggle(facet.key, value) }, `${value} `, el("kbd", {}, key));
        this.toggles.set(key, { facet: facet.key, value, button });
        toggles.push(button);
      }
    }
    this.count = el("output", { "aria-live": "polite" });
    const reset = el("button", { type: "button", "aria-keyshortcuts": "x", onclick: () => this.reset() }, "Reset ", el("kbd", {}, "x"));
    return el("div", { class: "toolbar", role: "search" }, this.search, ...toggles, ...this.selects.values(), reset, this.count);
  }

  select(facet) {
    const counts = new Map();
    for (const row of this.rows) if (row[facet.key] !== undefined) counts.set(row[facet.key], (counts.get(row[facet.key]) || 0) + 1);
    const values = [...counts.keys()].sort((a, b) => (isNumber(a) && isNumber(b) ? a - b : String(a) < String(b) ? -1 : 1));
    this.values.set(facet.key, values);
    if (values.length > MOST_OPTIONS) {
      return el("input", { type: "text", inputmode: "numeric", size: 8, placeholder: facet.label, "aria-label": facet.label,
        oninput: (event) => this.choose(facet.key, event.target.value === "" ? undefined : Number(event.target.value)) });
    }
    return el("select", { "aria-label": facet.label, onchange: (event) => this.choose(facet.key, values[event.target.value]) },
      el("option", { value: "" }, `${facet.label}: all`),
      ...values.map((value, i) => el("option", { value: i }, `${isNumber(value) ? `${facet.label} ${value}` : value} (${short(counts.get(value))})`)));
  }

  list() {
    this.heads = this.table.columns.map((column) => el("button", { type: "button", class: column.kind, onclick: () => this.sort(column.key) }, column.label));
    this.space = el("div", { class: "space" });
    this.view = el("div", { class: "view", role: "listbox", tabindex: "0", "aria-label": this.table.name, onscroll: () => this.draw(), onkeydown: (event) => this.key(event) }, this.space);
    this.drawn = new Map();
    return el("div", { class: "card list" }, el("div", { class: "row head" }, ...this.heads), this.view);
  }

  detail() {
    this.pane = el("article", { class: "card detail", tabindex: "0", "aria-label": "Selected row" });
    return this.pane;
  }

  // Apply filters and sorting; the selected row stays selected if it passes.
  update() {
    const words = this.search.value.trim(), before = this.order[this.place];
    this.pattern = words ? new RegExp(words.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "giu") : null;
    const wanted = Object.entries(this.chosen).filter(([, value]) => value !== undefined);
    const hit = this.pattern ? new RegExp(this.pattern.source, "iu") : null;
    this.order = [];
    this.rows.forEach((row, i) => {
      if (wanted.every(([key, value]) => row[key] === value) && (!hit || this.matches(row, hit))) this.order.push(i);
    });
    if (this.sorted.key) this.arrange();
    for (const { facet, value, button } of this.toggles.values()) button.setAttribute("aria-pressed", String(this.chosen[facet] === value));
    this.count.textContent = `${short(this.order.length)} of ${short(this.rows.length)}`;
    this.space.style.height = `${this.order.length * ROW}px`;
    this.forget();
    this.go(Math.max(0, this.order.indexOf(before)));
  }

  matches(row, pattern) {
    for (const text of textsOf(row, this.table.texts)) if (pattern.test(text)) return true;
    return false;
  }

  arrange() {
    const { key, down } = this.sorted, kind = this.table.columns.find((column) => column.key === key).kind;
    const value = (i) => (kind === "text" ? this.table.texts[this.rows[i][key]] : this.rows[i][key]);
    this.order.sort((a, b) => {
      const [one, other] = [value(a), value(b)];
      if (one === other) return a - b;
      if (one === undefined || one === null) return 1;
      if (other === undefined || other === null) return -1;
      return (one < other ? -1 : 1) * (down ? -1 : 1);
    });
  }

  // Cycle: ascending, descending, as logged.
  sort(key) {
    const same = key !== null && this.sorted.key === key;
    this.sorted = same && this.sorted.down ? { key: null, down: false } : { key, down: same };
    this.table.columns.forEach((column, i) => {
      const state = column.key !== this.sorted.key ? "none" : this.sorted.down ? "descending" : "ascending";
      this.heads[i].dataset.sorted = state;
      this.heads[i].setAttribute("aria-label", `Sort by ${column.label}, now ${state}`);
      this.heads[i].textContent = column.label + { none: "", ascending: " \u2191", descending: " \u2193" }[state];
    });
    this.update();
  }

  choose(key, value) {
    this.chosen[key] = value;
    const control = this.selects.get(key);
    if (control instanceof HTMLSelectElement) control.selectedIndex = this.values.get(key).indexOf(value) + 1;
    else if (control !== document.activeElement) control.value = value ?? "";
    this.update();
  }

  toggle(key, value) { this.choose(key, this.chosen[key] === value ? undefined : value); }

  reset() {
    this.search.value = "";
    for (const key of this.selects.keys()) this.chosen[key] = undefined;
    for (const control of this.selects.values()) control.value = "";
    this.sort(null);
  }

  // Select the next or previous step, if rows have steps.
  turn(by) {
    if (!this.selects.has("step")) return;
    const steps = this.values.get("step"), at = steps.indexOf(this.chosen.step);
    const next = at < 0 ? (by > 0 ? 0 : steps.length - 1) : Math.max(0, Math.min(steps.length - 1, at + by));
    this.choose("step", steps[next]);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.view.clientHeight / ROW) - 1), last = this.order.length - 1;
    const moves = { ArrowDown: this.place + 1, ArrowUp: this.place - 1, PageDown: this.place + page, PageUp: this.place - page, Home: 0, End: last };
    if (event.key in moves) { event.preventDefault(); this.go(moves[event.key]); }
    if (event.key === "Enter") { event.preventDefault(); this.pane.focus(); }
  }

  // Select a row by its index in the list, scroll to it and show it.
  go(place) {
    this.place = Math.max(0, Math.min(this.order.length - 1, place));
    const top = this.place * ROW, high = this.view.clientHeight;
    if (top < this.view.scrollTop) this.view.scrollTop = top;
    else if (high && top + ROW > this.view.scrollTop + high) this.view.scrollTop = top + ROW - high;
    this.draw();
    this.show();
  }

  forget() {
    for (const node of this.drawn.values()) node.remove();
    this.drawn.clear();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.view.scrollTop / ROW) - MARGIN);
    const last = Math.min(this.order.length, Math.ceil((this.view.scrollTop + (this.view.clientHeight || 800)) / ROW) + MARGIN);
    for (const [place, node] of this.drawn) if ((place < first || place >= last) && place !== this.place) { node.remove(); this.drawn.delete(place); }
    for (let place = first; place < last; place++) this.put(place);
    if (this.order.length) this.put(this.place);
    for (const [place, node] of this.drawn) node.setAttribute("aria-selected", String(place === this.place));
    this.view.setAttribute("aria-activedescendant", this.order.length ? `row-${this.place}` : "");
  }

  put(place) {
    if (this.drawn.has(place)) return;
    const row = this.rows[this.order[place]];
    const node = el("div", { class: "row", role: "option", id: `row-${place}`, "aria-setsize": this.order.length, "aria-posinset": place + 1, onclick: () => { this.go(place); this.view.focus(); } },
      ...this.table.columns.map((column) => el("span", { class: column.kind }, this.cell(column, row[column.key]))));
    node.style.transform = `translateY(${place * ROW}px)`;
    this.drawn.set(place, node);
    this.space.append(node);
  }

  cell(column, value) {
    if (column.kind === "outcome") return markOf(value);
    return column.kind === "text" ? this.table.texts[value].slice(0, 160) : short(value);
  }

  show() {
    this.pane.replaceChildren();
    this.pane.scrollTop = 0;
    const row = this.rows[this.order[this.place]];
    if (!row) { this.pane.append(el("p", { class: "empty" }, "No row matches the filters; press x to reset them.")); return; }
    const facts = this.table.columns.filter((column) => column.kind !== "text" && row[column.key] !== undefined);
    this.pane.append(el("div", { class: "top" }, ...facts.map((column) => (column.kind === "outcome" ? markOf(row[column.key]) : el("span", {}, `${column.label.toLowerCase()} ${short(row[column.key])}`)))),
      ...row.blocks.map((block) => blockNode(block, this.table.texts, this.pattern)));
  }
}
