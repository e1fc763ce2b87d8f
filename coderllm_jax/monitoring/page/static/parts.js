// Pieces that several views are made of.

import {h} from "./dom.js";
import {UNKNOWN, ago, between, clock, count, duration, percent, title, writer} from "./words.js";
import {Chart} from "./chart.js";

export const link = (place, ...words) => h("a", {href: `#/${place}`}, ...words);
export const runLink = (id, ...words) => link(`run/${encodeURIComponent(id)}`, ...words);
export const seriesColor = (i) => `series-${i % 8}`;

export function section(name, ...children) {
  return h("section", {key: name}, h("h2", null, name), ...children);
}

export function status(run) {
  return h("span", {class: `pill is-${run.status}`, title: run.status_reason || ""}, run.status);
}

export function tile(name, value, note = "", kind = "") {
  return h("div", {class: `tile ${kind}`, key: name}, h("small", null, name), h("b", null, value),
    note ? h("span", {class: "note"}, note) : null);
}

// A figure that may not be exposed: said in words, never as 0.
export const orNotExposed = (value, write) => value === null || value === undefined
  ? h("span", {class: "not-exposed"}, "not exposed") : write(value);

export function progress(run, now) {
  const share = run.num_steps ? Math.min(1, (run.step || 0) / run.num_steps) : null;
  const done = run.num_steps ? `step ${count(run.step)} of ${count(run.num_steps)}`
    : `step ${count(run.step)}`;
  return h("div", {class: "progress"},
    h("div", {class: "progress-words"}, h("span", null, done),
      h("span", {class: "muted"}, left(run, now))),
    share === null ? null : h("div", {class: `bar is-${run.status}`, role: "progressbar",
      "aria-valuenow": Math.round(share * 100), "aria-valuemin": 0, "aria-valuemax": 100},
    h("i", {style: {width: `${share * 100}%`}})));
}

export function left(run, now) {
  if (run.status === "running" && run.eta_s) {
    return `${duration(run.eta_s.expected)} left (${between(run.eta_s.low, run.eta_s.high)})`;
  }
  if (run.status === "running") return "time left not known yet";
  return run.updated === null ? "" : `last written ${ago(run.updated, now)}`;
}

const SPLIT = {
  compute: "computing", data_wait: "waiting for data", evaluation: "evaluating",
  checkpoint: "checkpoints", sampling: "sampling", compile: "compiling", setup: "setting up",
  lost: "lost", other: "other",
};

export function split(run) {
  const parts = Object.keys(SPLIT).filter((name) => run.split[name] > 0)
    .concat(Object.keys(run.split).filter((name) => !(name in SPLIT)));
  if (!parts.length) return null;
  return h("div", {class: "split", key: "split"},
    h("div", {class: "split-bar"}, parts.map((name) => h("i", {
      key: name, class: `part-${name}`, style: {"flex-grow": String(run.split[name])},
      title: `${SPLIT[name] || name}: ${percent(run.split[name], 1)}`}))),
    h("div", {class: "split-words"}, parts.map((name) => h("span", {key: name},
      h("i", {class: `part-${name}`}), `${SPLIT[name] || title(name)} `,
      h("b", null, percent(run.split[name]))))));
}

export function chart(key, data) {
  return h("figure", {key, class: `chart ${data.size || ""}`, widget: Chart, data});
}

// One line of a series that the store holds.
export function line(store, id, name, {label = "", color = "series-0", along = "step", isDotted, from} = {}) {
  const column = store.column(id, name);
  const start = from ?? column.time[0];
  const x = along === "step" ? column.step : along === "time" ? column.time
    : column.time.map((time) => time - start);
  return {label, color, isDotted, x, y: column.value};
}

export function version(store, id) {
  return store.series.get(id)?.version || 0;
}

const MARK = {critical: "critical", warning: "warning", info: "info"};

export function alertRow(alert, now) {
  const isFiring = alert.resolved === null;
  return h("li", {key: alert.id, class: `alert is-${MARK[alert.severity] || "info"} ${isFiring ? "is-firing" : ""}`},
    h("span", {class: "alert-mark"}, alert.severity),
    h("div", {class: "alert-words"},
      h("b", null, alert.message),
      h("small", null, alert.subject_name ? `${alert.subject_name} · ` : "", alert.rule, " · ",
        isFiring ? `since ${clock(alert.raised)}, ${ago(alert.raised, now)}`
          : `${clock(alert.raised)}, lasted ${duration(alert.resolved - alert.raised)}`)),
    h("small", {class: "alert-sent"}, alert.notified === "none configured" ? "" : alert.notified));
}

export function primaryLoss(run) {
  for (const name of ["loss", "train/loss", "train_loss", "training_loss"]) {
    if (run.series.includes(name)) return name;
  }
  return run.series.find((name) => /loss/i.test(name) && !/eval|val/i.test(name))
    || run.series.find((name) => /loss/i.test(name)) || run.series[0];
}

export function evalLoss(run) {
  const primary = primaryLoss(run);
  return run.series.find((name) => name !== primary && /(^|[/_])(eval|val|validation)([/_].*)?loss$/i.test(name));
}

export const choice = (name, options, chosen, onPick) => h("label", {class: "choice"},
  h("span", null, name),
  h("select", {onchange: (event) => onPick(event.target.value)},
    options.map(([value, words]) => h("option", {value, selected: value === chosen, key: value}, words))));

export const toggle = (name, isOn, onPick) => h("label", {class: "toggle"},
  h("input", {type: "checkbox", checked: isOn, onchange: (event) => onPick(event.target.checked)}),
  h("span", null, name));

export const writeOf = (name) => writer(name);
export {UNKNOWN};
