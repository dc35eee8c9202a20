// Served pages only: polls for newer data and redraws. New rows wait behind a button, so that the reader's
// selection stays.
const EVERY_MS = 1000, QUIET_MS = 5000;
const FOCUSABLE = "[tabindex], a, button, input, select, summary";
const state = el("span", { id: "following", role: "status", class: "note" }, "following");
document.querySelector(".actions").prepend(state);
let version = document.getElementById("data").dataset.version;

function drawAgain(stage) {
  const kept = stage.table && drawn.get(stage.name).explorer, node = stageNode(stage, kept);
  if (kept && kept.table.total !== stage.table.total) {
    const fresh = el("button", { type: "button", class: "fresh", onclick: () => { drawn.set(stage.name, stageNode(stage)); showStage(stage.name); } },
      `Show ${short(stage.table.total - kept.table.total)} newer`);
    node.sections.find((part) => part.id === "rows").prepend(fresh);
  }
  drawn.set(stage.name, node);
}

function take(fresh) {
  const focused = [...main.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  const open = [...main.querySelectorAll("details")].map((each) => each.open);
  const picked = [...main.querySelectorAll("#picker input[type=checkbox]")].map((each) => [each.value, each.checked]);
  Object.assign(DATA, fresh);
  DATA.stages.forEach((stage) => { if (drawn.has(stage.name)) drawAgain(stage); });
  showAll();
  main.querySelectorAll("details").forEach((each, i) => { each.open = Boolean(open[i]); });
  for (const [metric, on] of picked) {
    const box = [...main.querySelectorAll("#picker input[type=checkbox]")].find((each) => each.value === metric);
    if (box && box.checked !== on) { box.checked = on; box.dispatchEvent(new Event("change")); }
  }
  if (focused >= 0) { const again = main.querySelectorAll(FOCUSABLE)[focused]; if (again) again.focus({ preventScroll: true }); }
}

async function follow() {
  let pause = EVERY_MS;
  try {
    const answer = await fetch(`/data?since=${version}`);
    if (answer.status === 200) {
      const fresh = await answer.json();
      ({ version } = fresh);
      take(fresh.data);
    }
    state.textContent = "following";
  } catch {
    state.textContent = "no answer; trying again";
    pause = QUIET_MS;
  }
  setTimeout(follow, document.hidden ? QUIET_MS : pause);
}
setTimeout(follow, EVERY_MS);
