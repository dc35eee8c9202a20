// Renders the blocks of a selected row: texts with cuts, runs of other models, tables, steps.
const GOOD = new Set(["right", "transfers", "helps", "selected"]);
const BAD = new Set(["wrong", "no transfer", "no help"]);
const side = (outcome) => (GOOD.has(outcome) ? "good" : BAD.has(outcome) ? "bad" : "");

// An outcome as sign and word, readable without colour.
function markOf(outcome) {
  const sign = { good: "\u2713 ", bad: "\u2717 " }[side(outcome)] || "";
  return el("span", { class: `mark ${side(outcome)}` }, `${sign}${outcome || "not graded"}`);
}

// Text nodes with search matches marked.
function found(text, pattern) {
  if (!pattern) return [text];
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(pattern)) {
    nodes.push(text.slice(from, match.index), el("mark", {}, match[0]));
    from = match.index + match[0].length;
  }
  return [...nodes, text.slice(from)];
}

// The text with its cut marks.
function cutText(text, marks, pattern) {
  const node = el("pre", {});
  let from = 0;
  for (const mark of [...marks].sort((a, b) => a.at - b.at)) {
    node.append(...found(text.slice(from, mark.at), pattern), el("span", { class: "cut" }, `\u2702 ${mark.label}`));
    from = mark.at;
  }
  node.append(...found(text.slice(from), pattern));
  return node;
}

const RENDER = {
  text: (block, texts, pattern) => [cutText(block.ref === undefined ? block.text : texts[block.ref], block.marks || [], pattern)],
  table: (block) => [dataTable(block.head, block.rows, block.title)],
  runs: (block, texts, pattern) => [el("div", { class: "runs" }, ...block.runs.map((run) => el("div", { class: `run ${side(run.outcome)}` },
    markOf(run.outcome), el("span", { class: "note" }, run.note),
    el("pre", {}, block.lead ? el("span", { class: "lead" }, block.lead) : null, ...found(run.text, pattern)))))],
  steps: (block, texts, pattern) => [el("ol", { class: "steps" }, ...block.steps.map((step) => el("li", { class: step.part },
    el("span", { class: "label" }, { error: `${step.number} \u2717 first error`, new: `${step.number} \u2713 intervention` }[step.part] || step.number),
    el("span", { class: "said" }, ...found(step.text, pattern)))))],
};

function blockNode(block, texts, pattern) {
  return el("div", { class: `block-${block.kind}` }, el("h3", {}, block.title),
    block.note ? el("span", { class: "note" }, block.note) : null, ...RENDER[block.kind](block, texts, pattern));
}

// All searchable texts of a row.
function* textsOf(row, texts) {
  for (const block of row.blocks) {
    if (block.kind === "text") yield block.ref === undefined ? block.text : texts[block.ref];
    for (const run of block.runs || []) yield run.text;
    for (const step of block.steps || []) yield step.text;
  }
}
