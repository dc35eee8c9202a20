// The sections of a stage: key numbers, curves, time, table and configuration.
const words = (metric) => metric.replace(/^(time|rewards)\//, "").replace(/(_s|\/mean)$/, "").replaceAll("_", " ");

function section(id, title, about, ...children) {
  return el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title, about ? el("small", {}, ` \u00b7 ${about}`) : null), ...children);
}

function tilesNode(tiles) {
  return el("dl", { class: "tiles" }, ...tiles.map((tile) => {
    const notes = [];
    if (tile.first !== undefined) notes.push(`from ${short(tile.first)}`);
    if (tile.interval) notes.push(`95 % [${short(tile.interval[0])}, ${short(tile.interval[1])}]`);
    return el("div", { class: "card" }, el("dt", {}, ...breakable(tile.name)), el("dd", {}, withUnit(tile.value, tile.unit === "s" ? "s" : ""), ...notes.map((note) => el("small", {}, note))));
  }));
}

// Charts, and a list of all metrics to show or hide.
function curvesNode(curves, pick) {
  const panels = new Map(), charts = el("div", { class: "charts" }), names = Object.keys(curves.series);
  const set = (metric, on) => {
    if (on && !panels.has(metric)) { panels.set(metric, lineChart(curves, metric, pick)); charts.append(panels.get(metric)); }
    if (!on && panels.has(metric)) { panels.get(metric).remove(); panels.delete(metric); }
  };
  curves.panels.forEach((metric) => set(metric, true));
  const labels = names.map((metric) => el("label", {}, el("input", { type: "checkbox", checked: panels.has(metric), value: metric, onchange: (event) => set(metric, event.target.checked) }), metric));
  const filter = el("input", { type: "search", placeholder: "Filter metrics", "aria-label": "Filter metrics",
    oninput: () => labels.forEach((label, i) => { label.hidden = !names[i].toLowerCase().includes(filter.value.toLowerCase()); label.style.display = label.hidden ? "none" : ""; }) });
  const picker = el("details", { class: "card", id: "picker" }, el("summary", {}, "Metrics ", el("small", {}, `${names.length} logged; select those to plot`)), el("div", { class: "body" }, filter, el("div", { class: "picker" }, ...labels)));
  return [charts, picker];
}

function timeTable(curves) {
  const mean = (metric) => { const points = pointsOf(curves, metric); return points.reduce((sum, point) => sum + point.value, 0) / curves.steps.length; };
  const total = curves.phases.reduce((sum, metric) => sum + mean(metric), 0);
  const line = (metric, inside) => [`${inside ? "\u2514 " : ""}${words(metric)}`, mean(metric), total ? `${(100 * mean(metric) / total).toFixed(1)} %` : null];
  const node = dataTable(["phase", "mean s/step", "share"], [...curves.phases.map((metric) => line(metric, false)), ...curves.inside.map((metric) => line(metric, true))], "Time by phase");
  for (const row of node.rows) row.cells[2].className = "number";
  return el("div", { class: "card facts" }, node, curves.inside.length ? el("p", { class: "note" }, "\u2514 time of engines, inside the phases above") : null);
}

function partsNode(curves, pick) {
  const found = [];
  if (curves.phases.length) {
    found.push(section("time", "Time per step", "seconds, stacked by phase", el("div", { class: "pair" },
      stackedChart("time", "s", curves, curves.phases, curves.phases.map(words), pick), timeTable(curves))));
  }
  if (curves.components.length > 1) {
    const metrics = curves.components.map((part) => part.metric);
    const labels = curves.components.map((part) => words(part.metric) + (part.weight === null ? "" : ` (weight ${short(part.weight)})`));
    found.push(section("rewards", "Reward components", "before weights",
      el("div", { class: "pair even" }, linesChart("mean of each", curves, metrics, labels, pick),
        linesChart("standard deviation over the batch", curves, metrics.map((metric) => metric.replace(/mean$/, "std")), labels, pick))));
  }
  return found;
}

function factsNode(stage) {
  const filter = el("input", { type: "search", placeholder: "Filter options", "aria-label": "Filter options", oninput: () => {
    for (const row of options.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(filter.value.toLowerCase());
  } });
  const options = dataTable(["option", "value"], stage.config, "Configuration");
  const open = (title, about, ...body) => el("details", { class: "card" }, el("summary", {}, title, el("small", {}, ` ${about}`)), el("div", { class: "body" }, ...body));
  return section("configuration", "Configuration and environment", "", el("div", { class: "two" },
    open("Configuration", `${stage.config.length} options`, filter, options),
    open("Environment", "commit, versions, device", dataTable(["", "value"], stage.environment, "Environment")),
    ...stage.tables.map((table) => open(words(table.title), `${table.rows.length} numbers`, dataTable(["", "value"], table.rows, table.title)))));
}

// The stage's sections and its explorer, if it has rows. `kept`: an existing explorer to reuse.
function stageNode(stage, kept = null) {
  const explorer = kept || (stage.table ? new Explorer(stage.table) : null);
  const pick = (step) => {
    if (!explorer || !explorer.selects.has("step") || !explorer.rows.some((row) => row.step === step)) return;
    explorer.choose("step", step);
    explorer.node.closest("section").scrollIntoView();
  };
  const sections = [section("summary", stage.name, `${stage.kind} stage`, tilesNode(stage.tiles))];
  if (Object.keys(stage.curves.series).length) {
    sections.push(section("curves", "Curves", "by step; thick lines are running means of 5, bands 95 % intervals; click a step to read its completions", ...curvesNode(stage.curves, pick)), ...partsNode(stage.curves, pick));
  }
  if (explorer) sections.push(section("rows", stage.table.name, stage.table.note || `all ${short(stage.table.total)} that were logged`, explorer.node));
  return { sections: [...sections, factsNode(stage)], explorer };
}
