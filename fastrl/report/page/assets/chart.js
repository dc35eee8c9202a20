// Curves and stacked bars as SVG, each with a cursor for pointer and arrow keys.
const SMALL = { width: 340, height: 172 }, WIDE = { width: 700, height: 178 }, TALL = { width: 700, height: 252 };
const EDGE = { left: 44, right: 8, top: 18, bottom: 22 };
const DASHES = ["", "7 3", "2 2.5", "9 3 2 3", "5 2", "1.5 2", "12 4"];
const MOST_POINTS = 700;
const color = (i) => `var(--c${i % 7})`;

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

// [low, high] of the values, never empty
function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  if (low > high) return [0, 1];
  const room = low === high ? Math.abs(low) * 0.1 || 1 : (high - low) * 0.06;
  return [low - (low >= 0 && low < room ? low : room), high + room];
}

// Averages neighbours, so that a long curve has no more points than pixels.
function thinned(points, most) {
  if (points.length <= most) return points;
  const found = [];
  for (let i = 0; i < most; i++) {
    const part = points.slice(Math.floor(i * points.length / most), Math.floor((i + 1) * points.length / most));
    found.push({ step: part[part.length - 1].step, value: part.reduce((sum, each) => sum + each.value, 0) / part.length });
  }
  return found;
}

// Mean of each value and up to four before it.
const smoothed = (points) => points.map((point, i) => {
  const recent = points.slice(Math.max(0, i - 4), i + 1);
  return { step: point.step, value: recent.reduce((sum, each) => sum + each.value, 0) / recent.length };
});

function pointsOf(curves, metric) {
  const values = curves.series[metric] || [];
  return curves.steps.map((step, i) => ({ step, value: values[i] })).filter((point) => isNumber(point.value));
}

// The axes; `inset` keeps bars at both ends inside the frame.
function frame(steps, [low, high], { width, height } = SMALL, inset = 0) {
  const [first, last] = [steps[0], steps[steps.length - 1]];
  const { left, right, top, bottom } = EDGE;
  const x = (step) => left + inset + (first === last ? 0.5 : (step - first) / (last - first)) * (width - left - right - 2 * inset);
  const y = (value) => height - bottom - (value - low) / (high - low) * (height - top - bottom);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  for (const tick of ticks(low, high, 4)) {
    root.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: left - 6, y: y(tick) + 3.5, "text-anchor": "end" }, short(tick)));
  }
  const marks = first === last ? [first] : ticks(first, last, 5).filter(Number.isInteger);
  for (const tick of marks) root.append(svg("text", { x: x(tick), y: height - 6, "text-anchor": "middle" }, short(tick)));
  return { root, x, y, width, height };
}

const path = (points, x, y) => points.map((point, i) => `${i ? "L" : "M"}${x(point.step).toFixed(1)} ${y(point.value).toFixed(1)}`).join("");

// A figure with name, cursor readout and keyboard control. `read(step)` gives the readout.
function figure(name, unit, drawing, steps, summary, read, pick) {
  drawing.root.append(svg("text", { x: 0, y: 8 }, unit));
  const readout = el("span", { class: "readout", "aria-live": "polite" }, summary);
  const cursor = svg("line", { class: "cursor", y1: EDGE.top, y2: drawing.height - EDGE.bottom, visibility: "hidden" });
  drawing.root.append(cursor);
  let at = null;
  const move = (index) => {
    at = index === null ? null : Math.max(0, Math.min(steps.length - 1, index));
    cursor.setAttribute("visibility", at === null ? "hidden" : "visible");
    if (at !== null) { cursor.setAttribute("x1", drawing.x(steps[at])); cursor.setAttribute("x2", drawing.x(steps[at])); }
    readout.textContent = at === null ? summary : `step ${steps[at]}: ${read(steps[at])}`;
  };
  const nearest = (event) => {
    const box = drawing.root.getBoundingClientRect(), place = (event.clientX - box.left) / box.width * drawing.width;
    let best = 0;
    steps.forEach((step, i) => { if (Math.abs(drawing.x(step) - place) < Math.abs(drawing.x(steps[best]) - place)) best = i; });
    move(best);
  };
  const last = steps.length - 1;
  const keys = { ArrowLeft: () => move(at === null ? last : at - 1), ArrowRight: () => move(at === null ? 0 : at + 1),
    Home: () => move(0), End: () => move(last), Enter: () => at !== null && pick(steps[at]) };
  return el("figure", { class: "card chart", tabindex: "0", role: "group", "aria-label": `${name}: ${summary}${unit && ` ${unit}`}`,
    onpointermove: nearest, onpointerleave: () => move(null), onblur: () => move(null), onclick: () => at !== null && pick(steps[at]),
    onkeydown: (event) => { if (keys[event.key]) { event.preventDefault(); event.stopPropagation(); keys[event.key](); } } },
  el("figcaption", {}, el("span", { class: "name" }, ...breakable(name)), readout), drawing.root);
}

function lineChart(curves, metric, pick) {
  const points = pointsOf(curves, metric), unit = curves.units[metric] || "";
  const steps = points.map((point) => point.step), lows = pointsOf(curves, `${metric}/low`), highs = pointsOf(curves, `${metric}/high`);
  const drawing = frame(steps, extent([...points, ...lows, ...highs].map((point) => point.value)));
  const { root, x, y } = drawing, seldom = curves.steps.length > 2 * points.length;
  if (lows.length && lows.length === highs.length) {
    root.append(svg("path", { class: "band", fill: color(0), d: `${path(highs, x, y)}${path(lows.slice().reverse(), x, y).replace("M", "L")}Z` }));
  }
  const thin = thinned(points, MOST_POINTS);
  if (seldom || points.length < 2) {
    root.append(svg("path", { class: "mean", stroke: color(0), d: path(thin, x, y) }));
    for (const point of thin) root.append(svg("circle", { cx: x(point.step), cy: y(point.value), r: 2.6, fill: color(0) }));
  } else {
    root.append(svg("path", { class: "raw", stroke: color(0), d: path(thin, x, y) }),
      svg("path", { class: "mean", stroke: color(0), d: path(smoothed(thin), x, y) }));
  }
  const first = points[0].value, last = points[points.length - 1].value;
  const values = new Map(points.map((point) => [point.step, point.value]));
  return figure(metric, unit, drawing, steps, points.length > 1 ? `${short(first)} \u2192 ${short(last)}` : short(last), (step) => withUnit(values.get(step), unit), pick);
}

function swatch(i, filled) {
  const shape = filled ? svg("rect", { width: 22, height: 8, rx: 1.5, fill: color(i) })
    : svg("line", { x1: 0, x2: 22, y1: 4, y2: 4, stroke: color(i), "stroke-width": 2.5, "stroke-dasharray": DASHES[i % 7] || null });
  return svg("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" }, shape);
}
const legend = (labels, filled) => el("div", { class: "legend" }, ...labels.map((label, i) => el("span", {}, swatch(i, filled), label)));

// Several metrics in one frame, distinguished by colour and dashes.
function linesChart(name, curves, metrics, labels, pick) {
  const all = metrics.map((metric) => pointsOf(curves, metric)), steps = [...new Set(all.flat().map((point) => point.step))].sort((a, b) => a - b);
  const drawing = frame(steps, extent(all.flat().map((point) => point.value)), WIDE);
  all.forEach((points, i) => drawing.root.append(svg("path", { class: "mean", stroke: color(i), "stroke-dasharray": DASHES[i % 7] || null,
    d: path(smoothed(thinned(points, MOST_POINTS)), drawing.x, drawing.y) })));
  const values = all.map((points) => new Map(points.map((point) => [point.step, point.value])));
  const read = (step) => values.map((each, i) => `${labels[i]} ${short(each.get(step) ?? null)}`).join(", ");
  const node = figure(name, "", drawing, steps, "running means of 5", read, pick);
  node.append(legend(labels, false));
  return node;
}

// Stacked bars per step.
function stackedChart(name, unit, curves, metrics, labels, pick) {
  const places = curves.steps.map((_, i) => i).filter((i) => metrics.some((metric) => isNumber(curves.series[metric][i])));
  const value = (metric, i) => curves.series[metric][i] || 0;
  const columns = Math.min(places.length, 160), bins = [];
  for (let k = 0; k < columns; k++) {
    const part = places.slice(Math.floor(k * places.length / columns), Math.floor((k + 1) * places.length / columns));
    bins.push({ step: curves.steps[part[part.length - 1]], parts: metrics.map((metric) => part.reduce((sum, i) => sum + value(metric, i), 0) / part.length) });
  }
  const total = (bin) => bin.parts.reduce((sum, part) => sum + part, 0), steps = bins.map((bin) => bin.step);
  const room = (TALL.width - EDGE.left - EDGE.right) / columns, thick = Math.max(0.8, Math.min(room * 0.84, 30));
  const drawing = frame(steps, [0, Math.max(...bins.map(total)) * 1.06 || 1], TALL, room / 2);
  for (const bin of bins) {
    let base = 0;
    bin.parts.forEach((part, i) => {
      if (part > 0) drawing.root.append(svg("rect", { class: "bar", fill: color(i), x: drawing.x(bin.step) - thick / 2, width: thick,
        y: drawing.y(base + part), height: drawing.y(base) - drawing.y(base + part) }));
      base += part;
    });
  }
  const found = new Map(bins.map((bin) => [bin.step, bin]));
  const read = (step) => `${short(total(found.get(step)))} ${unit}: ` + found.get(step).parts.map((part, i) => `${labels[i]} ${short(part)}`).join(", ");
  const mean = bins.reduce((sum, bin) => sum + total(bin), 0) / bins.length;
  const node = figure(name, unit, drawing, steps, `mean ${short(mean)}`, read, pick);
  node.append(legend(labels, true));
  return node;
}
