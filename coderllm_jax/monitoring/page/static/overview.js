// Everything at a glance: what is firing, every run, the traffic, the machine.

import {h} from "./dom.js";
import {ago, bytes, count, duration, figure, percent, rate, title, writer} from "./words.js";
import {alertRow, chart, evalLoss, line, link, orNotExposed, primaryLoss, progress, runLink, section,
  split, status, tile, version} from "./parts.js";

const MOST_CARDS = 6;
const RANK = {running: 0, stalled: 1, failed: 2, interrupted: 3, unknown: 4, finished: 5};

export const points = 400;

export function inOrder(runs) {
  return [...runs].sort((a, b) => RANK[a.status] - RANK[b.status] || (b.updated || 0) - (a.updated || 0));
}

export function want(store) {
  const {runs = [], machine} = store.overview;
  const wanted = {};
  for (const run of inOrder(runs).slice(0, MOST_CARDS)) {
    wanted[run.id] = [primaryLoss(run), evalLoss(run)].filter(Boolean);
  }
  if (machine?.series.length) wanted.machine = machine.series.filter(isShown);
  return wanted;
}

const isShown = (name) => /^(cpu|memory)[a-z_]*fraction$|^gpu[a-z_0-9]*use[a-z_]*$/.test(name);

export function view(store) {
  const {runs = [], traffic = [], machine, alerts = [], problems = []} = store.overview;
  const firing = alerts.filter((alert) => alert.resolved === null);
  const ordered = inOrder(runs);
  const rest = ordered.slice(MOST_CARDS);
  return [
    firing.length ? section("Firing now", h("ul", {class: "alerts"},
      firing.slice(0, 8).map((alert) => alertRow(alert, store.now))),
    firing.length > 8 ? h("p", null, link("alerts", `and ${firing.length - 8} more`)) : null) : null,
    section("Runs",
      runs.length ? h("div", {class: `cards ${ordered.length === 1 ? "is-single" : ""}`},
        ordered.slice(0, MOST_CARDS).map((run) => card(store, run))) : noRun(),
      rest.length ? table(rest, store.now) : null),
    traffic.length ? section("Traffic", traffic.map((log) => trafficRow(log, store.now))) : null,
    machine ? section("Machine", machinePart(store, machine)) : null,
    problems.length ? section("What could not be read", h("ul", {class: "problems"},
      problems.map((problem, i) => h("li", {key: i}, problem)))) : null,
  ].filter(Boolean);
}

const noRun = () => h("div", {class: "card is-empty"}, h("p", null, h("b", null, "No run yet.")),
  h("p", {class: "muted"}, "Start one with ", h("code", null, "make train"),
    "; it appears here as soon as it writes its first line."));

function card(store, run) {
  const [loss, evaluation] = [primaryLoss(run), evalLoss(run)];
  return h("article", {class: "card run", key: run.id},
    h("header", null, h("h3", null, runLink(run.id, run.name)), status(run)),
    h("p", {class: "muted sub"}, [run.model, run.folder].filter(Boolean).join(" · ")),
    progress(run, store.now),
    loss ? chart("loss", {
      empty: store.series.has(run.id) ? "" : "reading …", title: "Loss", along: "step", version: version(store, run.id), write: writer(loss), size: "is-small",
      smoothing: 0.8,
      lines: [line(store, run.id, loss, {label: "training"}),
        evaluation && line(store, run.id, evaluation, {label: "evaluation", color: "series-1", isDotted: true}),
      ].filter(Boolean)}) : null,
    h("div", {class: "facts"},
      fact("Tokens/s", rate(run.tokens_per_s ?? run.latest.tokens_per_s)),
      fact("Step", duration(run.step_time_s)),
      fact("Best eval loss", figure(run.best_eval_loss, 4)),
      fact("Goodput", percent(run.goodput)),
      fact("MFU", orNotExposed(run.mfu, (value) => percent(value, 1)))),
    split(run),
    run.status !== "running" && run.status !== "finished" && run.status_reason
      ? h("p", {class: `reason is-${run.status}`}, run.status_reason) : null);
}

const fact = (name, value) => h("div", {key: name}, h("small", null, name), h("b", null, value));

function table(runs, now) {
  return h("div", {class: "wide"}, h("table", null,
    h("thead", null, h("tr", null, ["Run", "", "Model", "Step", "Loss", "Best eval loss", "Tokens/s", "Written"]
      .map((name) => h("th", {key: name}, name)))),
    h("tbody", null, runs.map((run) => h("tr", {key: run.id},
      h("td", null, runLink(run.id, run.name)), h("td", null, status(run)), h("td", null, run.model),
      h("td", {class: "number"}, count(run.step)), h("td", {class: "number"}, figure(run.latest[primaryLoss(run)])),
      h("td", {class: "number"}, figure(run.best_eval_loss)), h("td", {class: "number"}, rate(run.tokens_per_s ?? run.latest.tokens_per_s)),
      h("td", {class: "number"}, ago(run.updated, now)))))));
}

function trafficRow(log, now) {
  const drifted = log.drift.filter((each) => each.state === "drifted").length;
  return h("article", {class: "card traffic", key: log.id},
    h("header", null, h("h3", null, link(`traffic/${encodeURIComponent(log.id)}`, log.name)),
      h("span", {class: "muted"}, log.updated === null ? "nothing yet" : `last request ${ago(log.updated, now)}`)),
    h("div", {class: "tiles"},
      tile("Requests/s", rate(log.requests_per_s)),
      tile("Errors", percent(log.error_rate, 1), "", log.error_rate > 0.05 ? "is-bad" : ""),
      tile("First token, p95", duration(log.ttft_s?.p95)),
      tile("Answer, p95", duration(log.total_s?.p95)),
      tile("Tokens/s", rate(log.completion_tokens_per_s)),
      tile("Drift", drifted ? `${drifted} drifted` : "steady", "", drifted ? "is-bad" : "")));
}

export function machinePart(store, machine) {
  const memory = machine.memory_total_bytes === null ? ""
    : `${bytes(machine.memory_used_bytes)} of ${bytes(machine.memory_total_bytes)}`;
  const load = machine.load_1min === null ? "" : `load ${figure(machine.load_1min, 2)}`;
  const shown = machine.series.filter(isShown);
  return [
    h("div", {class: "gauges"},
      gauge("Processor", machine.cpu_fraction, [machine.num_cores && `${machine.num_cores} cores`, load]
        .filter(Boolean).join(", "), {isWork: true}),
      gauge("Memory", machine.memory_used_fraction, memory),
      machine.disks.map((disk) => gauge(`Disk of ${disk.path}`, disk.used_fraction, `${bytes(disk.free_bytes)} free`)),
      Object.entries(machine.temperatures_c).map(([name, value]) =>
        gauge(`Temperature, ${name}`, value / 100, `${figure(value, 3)} °C`, {isShare: false})),
      machine.accelerators.length ? null : h("div", {class: "gauge", key: "none"},
        h("div", {class: "gauge-words"}, h("span", null, "Accelerator"), h("span", {class: "not-exposed"}, "not exposed")))),
    machine.accelerators.length ? h("div", {class: "chip-grid"}, machine.accelerators.map(accelerator)) : null,
    shown.length ? chart("machine", {
      empty: store.series.has("machine") ? "" : "reading …", title: "Use over time", along: "time", version: version(store, "machine"), size: "is-small", fromZero: true,
      write: (value) => percent(value),
      lines: shown.map((name, i) => line(store, "machine", name, {label: title(name).toLowerCase(), color: `series-${i}`, along: "time"})),
    }) : null,
    h("p", {class: "muted small"}, machine.hostname, " · this monitor takes ",
      orNotExposed(machine.own_memory_bytes, bytes), " and ",
      orNotExposed(machine.own_cpu_fraction, (value) => percent(value, 1)), " of a core",
      machine.notes.length ? h("span", null, " · ", machine.notes.join(" · ")) : null),
  ];
}

// A processor that works is no reason to worry; what fills up or heats up is.
function gauge(name, share, words, {isShare = true, isWork = false} = {}) {
  const heat = isWork ? "" : share > 0.95 ? "is-bad" : share > 0.85 ? "is-warm" : "";
  return h("div", {class: `gauge ${heat}`, key: name},
    h("div", {class: "gauge-words"}, h("span", null, name),
      h("b", null, orNotExposed(share, (value) => isShare ? percent(value) : words))),
    h("div", {class: "bar"}, h("i", {style: {width: `${Math.min(1, share || 0) * 100}%`}})),
    isShare && words ? h("small", {class: "muted"}, words) : null);
}

function accelerator(chip) {
  const name = `${chip.kind.toUpperCase()} ${chip.index}`;
  const isKnown = chip.memory_used_bytes !== null && chip.memory_total_bytes;
  return h("div", {class: "card chip", key: name},
    h("header", null, h("b", null, name), h("span", {class: "muted"}, chip.name)),
    gauge("Use", chip.use_fraction, "", {isWork: true}),
    gauge("Memory", isKnown ? chip.memory_used_bytes / chip.memory_total_bytes : null,
      isKnown ? `${bytes(chip.memory_used_bytes)} of ${bytes(chip.memory_total_bytes)}` : ""),
    h("div", {class: "facts"},
      fact("Temperature", orNotExposed(chip.temperature_c, (value) => `${figure(value, 3)} °C`)),
      fact("Power", orNotExposed(chip.power_w, (value) => chip.power_limit_w
        ? `${Math.round(value)} of ${Math.round(chip.power_limit_w)} W` : `${Math.round(value)} W`)),
      fact("Throttled", orNotExposed(chip.throttling, (reasons) => reasons.length ? reasons.join(", ") : "no"))));
}
