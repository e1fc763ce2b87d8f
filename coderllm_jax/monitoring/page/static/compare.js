// Runs over one another: one curve each, and their figures side by side.

import {h} from "./dom.js";
import {count, duration, figure, percent, rate, title, writer} from "./words.js";
import {chart, choice, line, primaryLoss, runLink, section, seriesColor, status, toggle, version} from "./parts.js";
import {inOrder} from "./overview.js";
import {Zoom} from "./chart.js";

export const points = 1200;
// No more than there are colors: each has its own.
const MOST = 8;
const look = {along: "step", isLog: false, smoothing: 0.6};
const zooms = new Map();

// The runs and the figure are in the address, so that a look can be sent to somebody.
function chosen(store, params) {
  const runs = inOrder(store.overview.runs || []);
  const asked = params.runs ? params.runs.split(",").map(decodeURIComponent) : null;
  const picked = asked ? runs.filter((run) => asked.includes(run.id)) : runs.slice(0, 4);
  const names = [...new Set(runs.flatMap((run) => run.series))];
  const metric = names.includes(params.metric) ? params.metric : picked[0] ? primaryLoss(picked[0]) : names[0];
  return {runs, picked: picked.slice(0, MOST), names, metric};
}

// A run keeps its color when others are picked, unless one of them has it already: then the next that is free.
function colored(runs, picked) {
  const rank = (run) => runs.filter((each) => each.id < run.id).length;
  const taken = new Map();
  for (const run of [...picked].sort((a, b) => rank(a) - rank(b))) {
    let i = rank(run);
    while (taken.has(seriesColor(i))) i += 1;
    taken.set(seriesColor(i), run.id);
  }
  return (run) => [...taken].find(([, id]) => id === run.id)?.[0] || seriesColor(rank(run));
}

export function want(store, params) {
  const {picked, metric} = chosen(store, params);
  const second = metric === "loss" ? ["eval_loss"] : [];
  return Object.fromEntries(picked.map((run) => [run.id, [metric, ...second].filter((name) => run.series.includes(name))]));
}

export function view(store, params, rerender) {
  const {runs, picked, names, metric} = chosen(store, params);
  if (runs.length < 1) return [h("p", {class: "waiting"}, "No runs to compare yet.")];
  const go = (ids, name) => {
    location.hash = `#/compare?runs=${ids.map(encodeURIComponent).join(",")}&metric=${encodeURIComponent(name)}`;
  };
  const ids = picked.map((run) => run.id);
  const pick = (name) => (value) => {
    look[name] = value;
    rerender();
  };
  const place = look.along;
  if (!zooms.has(place)) zooms.set(place, new Zoom());
  const colorOf = colored(runs, picked);
  const common = {along: look.along, isLog: look.isLog, zoom: zooms.get(place), smoothing: look.smoothing,
    version: picked.map((run) => version(store, run.id)).join()};
  const lines = (name) => picked.filter((run) => run.series.includes(name))
    .map((run) => line(store, run.id, name, {label: run.name, color: colorOf(run), along: look.along,
      isDotted: /(^|[/_])(eval|val)/.test(name)}));
  const names2 = metric === "loss" && picked.some((run) => run.series.includes("eval_loss")) ? ["eval_loss"] : [];
  return [
    section("Compare",
      h("div", {class: "chips"}, runs.map((run) => h("button", {key: run.id,
        class: `chip-button ${ids.includes(run.id) ? "is-on" : ""}`, "aria-pressed": String(ids.includes(run.id)),
        onclick: () => go(ids.includes(run.id) ? ids.filter((id) => id !== run.id) : [...ids, run.id], metric)},
      h("i", {style: {background: `var(--${colorOf(run)})`}}), run.name))),
      h("div", {class: "controls"},
        choice("figure", names.map((name) => [name, title(name)]), metric, (name) => go(ids, name)),
        choice("aligned by", [["step", "step"], ["elapsed", "time since start"], ["time", "time of day"]], look.along, pick("along")),
        toggle("log scale", look.isLog, pick("isLog")),
        h("label", {class: "slider"}, h("span", null, "smoothing"),
          h("input", {type: "range", min: "0", max: "0.98", step: "0.02", value: String(look.smoothing),
            oninput: (event) => pick("smoothing")(Number(event.target.value))}),
          h("output", null, look.smoothing.toFixed(2)))),
      picked.length ? chart(`curve ${metric}`, {...common, title: title(metric), size: "is-large", write: writer(metric), lines: lines(metric)})
        : h("p", {class: "waiting"}, "Pick runs above."),
      names2.map((name) => chart(`curve ${name}`, {...common, title: title(name), write: writer(name), lines: lines(name)}))),
    picked.length ? section("Side by side", sideBySide(picked, colorOf)) : null,
  ].filter(Boolean);
}

const last = (run) => run.latest[primaryLoss(run)];
const ROWS = [
  ["Status", (run) => run.status, status],
  ["Steps", (run) => run.step, (run) => count(run.step)],
  ["Tokens", (run) => run.tokens, (run) => count(run.tokens)],
  ["Loss, latest", last, (run) => figure(last(run)), Math.min],
  ["Best evaluation loss", (run) => run.best_eval_loss, (run) => figure(run.best_eval_loss), Math.min],
  ["Tokens per second", (run) => run.tokens_per_s, (run) => rate(run.tokens_per_s), Math.max],
  ["Step time", (run) => run.step_time_s, (run) => duration(run.step_time_s), Math.min],
  ["Model FLOP use", (run) => run.mfu, (run) => percent(run.mfu, 1), Math.max],
  ["Goodput", (run) => run.goodput, (run) => percent(run.goodput), Math.max],
];

function sideBySide(runs, colorOf) {
  return h("div", {class: "wide"}, h("table", {class: "side-by-side"},
    h("thead", null, h("tr", null, h("th", {key: ""}), runs.map((run) => h("th", {key: run.id},
      h("i", {class: "dot", style: {background: `var(--${colorOf(run)})`}}), runLink(run.id, run.name))))),
    h("tbody", null, ROWS.map(([name, get, write, best]) => {
      const known = runs.map(get).filter((value) => typeof value === "number");
      const isContest = best && new Set(known).size > 1;
      const goal = isContest ? best(...known) : null;
      return h("tr", {key: name}, h("th", null, name), runs.map((run) => h("td",
        {key: run.id, class: goal !== null && get(run) === goal ? "number is-best" : "number"}, write(run))));
    }))));
}
