// The page: stages as tabs, keyboard shortcuts, colours.
const DATA = JSON.parse(document.getElementById("data").textContent);
const KEYS = [["/", "search"], ["j, k", "next, previous row"], ["\u2191 \u2193 Page Home End", "move in the list that has the focus"], ["Enter", "open the selected row; on a curve: the step's completions"],
  ["r, w", "right (selected), wrong only"], ["t, n", "transfers or helps, does not"], ["[, ]", "previous, next step"], ["x", "reset filters"],
  ["\u2190 \u2192", "move along a curve or the stages"], ["d", "colours: system, light, dark"], ["?", "this list"], ["Esc", "leave the search"]];
const THEMES = [["", "Auto", "system setting"], ["light", "Light", "light"], ["dark", "Dark", "dark"]];
const main = document.getElementById("main"), tabs = document.getElementById("stages"), keys = document.getElementById("keys");
const drawn = new Map();
let explorer = null, stageShown = null;

function showStage(name) {
  const stage = DATA.stages.find((each) => each.name === name);
  stageShown = name;
  if (!drawn.has(name)) drawn.set(name, stageNode(stage));
  ({ explorer } = drawn.get(name));
  main.replaceChildren(...drawn.get(name).sections);
  if (DATA.waiting.length) main.append(el("p", { class: "note" }, `Not begun yet: ${DATA.waiting.join(", ")}`));
  for (const tab of tabs.children) { tab.setAttribute("aria-selected", String(tab.value === name)); tab.tabIndex = tab.value === name ? 0 : -1; }
  document.getElementById("sections").replaceChildren(...drawn.get(name).sections.slice(1).map((part) => el("a", { href: `#${part.id}` }, part.querySelector("h2").firstChild.textContent.replace(/ (and|per) .*| components/, ""))));
  if (explorer) explorer.go(explorer.place);
}

function turnTabs(event) {
  const at = [...tabs.children].indexOf(document.activeElement), by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (by === undefined || at < 0) return;
  const next = tabs.children[(at + by + tabs.children.length) % tabs.children.length];
  showStage(next.value);
  next.focus();
}

function turnTheme() {
  const now = THEMES.findIndex(([name]) => name === (document.documentElement.dataset.theme || "")), [name, label, words] = THEMES[(now + 1) % THEMES.length];
  document.documentElement.dataset.theme = name;
  const button = document.getElementById("theme");
  button.textContent = label;
  button.setAttribute("aria-label", `Colours: ${words}`);
}

const ACTIONS = {
  "?": () => keys.showModal(), d: turnTheme, "/": () => explorer && explorer.search.focus(), x: () => explorer && explorer.reset(),
  j: () => explorer && explorer.go(explorer.place + 1), k: () => explorer && explorer.go(explorer.place - 1),
  "]": () => explorer && explorer.turn(1), "[": () => explorer && explorer.turn(-1),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]), select, textarea");
  if (event.key === "Escape" && typing && explorer) { explorer.view.focus(); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
  const toggle = explorer && explorer.toggles.get(event.key);
  if (!toggle && !Object.hasOwn(ACTIONS, event.key)) return;
  event.preventDefault();
  if (toggle) explorer.toggle(toggle.facet, toggle.value);
  else ACTIONS[event.key]();
});
addEventListener("beforeprint", () => document.querySelectorAll("details:not(#picker)").forEach((each) => { each.open = true; }));
document.getElementById("theme").addEventListener("click", turnTheme);
document.getElementById("help").addEventListener("click", () => keys.showModal());
tabs.addEventListener("keydown", turnTabs);
keys.append(el("h2", { id: "keys-title" }, "Keys"), el("table", {}, el("tbody", {}, ...KEYS.map(([key, does]) => el("tr", {}, el("td", {}, el("kbd", {}, key)), el("td", {}, does))))),
  el("form", { method: "dialog" }, el("button", {}, "Close")));

function showAll() {
  const many = DATA.stages.length > 1 ? DATA.stages : [];
  tabs.replaceChildren(...many.map((stage) => el("button", { type: "button", role: "tab", value: stage.name, "aria-controls": "main", onclick: () => showStage(stage.name) }, `${stage.name} `, el("small", {}, stage.kind))));
  if (DATA.stages.length) showStage(stageShown || (DATA.stages.findLast((stage) => stage.table) || DATA.stages[DATA.stages.length - 1]).name);
  else main.replaceChildren(el("p", { class: "empty" }, `No stage of this pipeline has begun: ${DATA.waiting.join(", ")}`));
}
showAll();
