// One run: where it is, its curves, what it answers.

import {h} from "./dom.js";
import {ago, clock, count, duration, figure, percent, rate, title, writer} from "./words.js";
import {alertRow, chart, choice, evalLoss, left, line, link, orNotExposed, primaryLoss, progress, section,
  split, status, tile, toggle, version} from "./parts.js";
import {Zoom} from "./chart.js";

export const points = 1500;

const FIRST = ["learning_rate", "grad_norm", "tokens_per_s", "data_wait_s", "step_time_s", "mfu", "perplexity",
  "token_accuracy", "memory_bytes"];
// How charts are looked at outlives the look at one run.
const look = {along: "step", isLog: false, smoothing: 0.6};
let zoom = new Zoom();
let zoomOf = "";

const find = (store, id) => (store.overview.runs || []).find((run) => run.id === id);

export function want(store, {id}) {
  const run = find(store, id);
  return run ? {[id]: [...run.series]} : {};
}

export function view(store, {id}, rerender) {
  const run = find(store, id);
  if (!run) return [h("p", {class: "waiting"}, "There is no such run. ", link("", "All runs"))];
  const loss = primaryLoss(run);
  const evaluation = evalLoss(run);
  const others = run.series.filter((name) => name !== loss && name !== evaluation)
    .sort((a, b) => order(a) - order(b) || a.localeCompare(b));
  const place = `${id} ${look.along}`;
  if (zoomOf !== place) {
    zoom = new Zoom();
    zoom.onChange = () => {
      rerender();
      refine(store, id);
    };
    zoomOf = place;
  }
  const pick = (name) => (value) => {
    look[name] = value;
    rerender();
  };
  const alerts = (store.overview.alerts || []).filter((alert) => alert.subject === id);
  const common = {along: look.along, isLog: look.isLog, zoom, version: version(store, id)};
  return [
    h("section", {class: "hero", key: "hero"},
      h("header", null, h("h1", null, run.name), status(run)),
      h("p", {class: "muted sub"}, [run.model, run.folder, run.source === "tensorboard" ? "TensorBoard events" : ""]
        .filter(Boolean).join(" · ")),
      run.status_reason ? h("p", {class: `reason is-${run.status}`}, run.status_reason) : null,
      progress(run, store.now),
      h("div", {class: "tiles"},
        tile("Loss", figure(run.latest[loss])),
        tile("Best evaluation loss", figure(run.best_eval_loss), run.best_step === null ? "" : `step ${count(run.best_step)}`),
        tile("Tokens per second", rate(run.tokens_per_s ?? run.latest.tokens_per_s)),
        tile("Tokens", count(run.tokens)),
        tile("Step time", duration(run.step_time_s)),
        tile("Model FLOP use", orNotExposed(run.mfu, (value) => percent(value, 1))),
        tile("Goodput", percent(run.goodput)),
        tile("Started", ago(run.started, store.now), clock(run.started))),
      split(run)),
    alerts.length ? section("Alerts", h("ul", {class: "alerts"}, alerts.map((alert) => alertRow(alert, store.now)))) : null,
    section("Curves",
      h("div", {class: "controls"},
        choice("along", [["step", "steps"], ["elapsed", "time since start"], ["time", "time of day"]], look.along, pick("along")),
        toggle("log scale", look.isLog, pick("isLog")),
        h("label", {class: "slider"}, h("span", null, "smoothing"),
          h("input", {type: "range", min: "0", max: "0.98", step: "0.02", value: String(look.smoothing),
            oninput: (event) => pick("smoothing")(Number(event.target.value))}),
          h("output", null, look.smoothing.toFixed(2))),
        zoom.window ? h("button", {onclick: () => { zoom.set(null, null); }}, "show all")
          : h("small", {class: "muted hint"}, "drag to zoom, double-click to show all")),
      h("div", {class: "charts"},
        loss ? chart("loss", {...common, title: "Loss", size: "is-large", smoothing: look.smoothing, write: writer(loss),
          lines: [line(store, id, loss, {label: "training", along: look.along, from: run.started}),
            evaluation && line(store, id, evaluation,
              {label: "evaluation", color: "series-1", isDotted: true, along: look.along, from: run.started}),
          ].filter(Boolean)}) : null,
        others.map((name) => chart(name, {...common, title: title(name), write: writer(name),
          smoothing: name === "learning_rate" ? 0 : look.smoothing,
          lines: [line(store, id, name, {color: "series-0", along: look.along, from: run.started})]})))),
    run.samples.length ? section("Samples", h("div", {class: "samples"}, [...run.samples].reverse().map(sample))) : null,
  ].filter(Boolean);
}

// What is looked at closely, and came thinned, is asked for point by point.
function refine(store, id) {
  const run = find(store, id);
  if (!zoom.window || !run || run.num_points <= points) return;
  const {step, time} = store.column(id, primaryLoss(run));
  const at = {step, time, elapsed: time.map((each) => each - (run.started ?? time[0]))}[look.along];
  const inside = step.filter((_, i) => at[i] >= zoom.window[0] && at[i] <= zoom.window[1]);
  const [first, last] = look.along === "step" ? zoom.window.map(Math.round) : [inside[0], inside.at(-1)];
  if (first < last) store.refine(id, run.series, [first, last]);
}

const order = (name) => {
  const i = FIRST.indexOf(name);
  return i < 0 ? FIRST.length : i;
};

const sample = (each, i) => h("article", {class: "card sample", key: i},
  h("header", null, h("b", null, each.question || ""), h("small", {class: "muted"}, `step ${count(each.step)}`)),
  h("div", {class: "answers"},
    h("div", null, h("small", null, "answer"), h("pre", null, each.answer || "")),
    each.reference ? h("div", null, h("small", null, "reference"), h("pre", null, each.reference)) : null));
