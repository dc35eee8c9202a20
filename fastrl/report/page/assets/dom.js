// Elements and numbers. Text is inserted only as text nodes; no string ever becomes markup.
const SVG = "http://www.w3.org/2000/svg";

function dressed(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (name, attributes = {}, ...children) => dressed(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) => dressed(document.createElementNS(SVG, name), attributes, children);

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

// Short number format: 12,345  0.0312  -1.5e-7
function short(value) {
  if (value === null || value === undefined) return "\u2013";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return WHOLE.format(value);
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
  if (size >= 1000) return WHOLE.format(value);
  return String(Number(value.toPrecision(size < 1 ? 3 : 4)));
}

function withUnit(value, unit) {
  if (unit === "s" && typeof value === "number" && value >= 120) {
    return value >= 7200 ? `${(value / 3600).toFixed(1)} h` : `${(value / 60).toFixed(1)} min`;
  }
  return unit && value !== null ? `${short(value)} ${unit}` : short(value);
}

// A name with line-break opportunities after slashes and underscores.
const breakable = (name) => name.split(/(?<=[/_])/).flatMap((part, i) => (i ? [el("wbr"), part] : [part]));

const isNumber = (value) => typeof value === "number";

function dataTable(head, rows, label) {
  const numeric = head.map((_, i) => rows.some((row) => isNumber(row[i])) && rows.every((row) => row[i] === null || isNumber(row[i])));
  const cell = (tag, value, i) => el(tag, { class: numeric[i] ? "number" : null, scope: tag === "th" ? "col" : null }, tag === "th" ? value : shown(value));
  return el("table", { "aria-label": label },
    head.length ? el("thead", {}, el("tr", {}, ...head.map((name, i) => cell("th", name, i)))) : null,
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((value, i) => cell("td", value, i))))));
}

function shown(value) {
  if (value === null || value === undefined) return "\u2013";
  if (isNumber(value)) return short(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
