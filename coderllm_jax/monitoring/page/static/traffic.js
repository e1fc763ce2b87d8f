// What a deployment is asked and how it answers: rates, waits, errors, and drift from what was usual.

import {h} from "./dom.js";
import {ago, clock, count, duration, figure, percent, rate, title, writer} from "./words.js";
import {UNKNOWN, chart, line, section, tile, version} from "./parts.js";
import {Zoom} from "./chart.js";

export const points = 1500;
const zooms = new Map();
const PERCENTILE = /(^|_)(p\d+)(_|$)/;

const find = (store, {id}) => {
  const logs = store.overview.traffic || [];
  return logs.find((log) => log.id === id) || (id ? null : logs[0]);
};

export function want(store, params) {
  const log = find(store, params);
  return log ? {[log.id]: [...log.series]} : {};
}

export function view(store, params) {
  const logs = store.overview.traffic || [];
  const log = find(store, params);
  if (!log) {
    return [h("div", {class: "card is-empty", key: "none"}, h("p", null, h("b", null, "No traffic yet.")),
      h("p", {class: "muted"}, "Requests appear here when ", h("code", null, "python -m coderllm_jax.serve"),
        " writes its log, or another server whose log is named in ", h("code", null, "traffic.logs"), "."))];
  }
  if (!zooms.has(log.id)) zooms.set(log.id, new Zoom());
  const common = {along: "time", zoom: zooms.get(log.id), version: version(store, log.id), fromZero: true};
  return [
    logs.length > 1 ? h("nav", {class: "tabs", key: "tabs"}, logs.map((each) => h("a", {key: each.id,
      href: `#/traffic/${encodeURIComponent(each.id)}`, class: each.id === log.id ? "is-on" : ""}, each.name))) : null,
    h("section", {class: "hero", key: "hero"},
      h("header", null, h("h1", null, log.name),
        h("span", {class: "muted"}, log.updated === null ? "nothing yet" : `last request ${ago(log.updated, store.now)}`)),
      h("p", {class: "muted sub"}, `${log.path} · the last ${duration(log.window_s)}: ${count(log.num_requests)} of `
        + `${count(log.num_total)} requests`, log.num_bad_lines ? ` · ${count(log.num_bad_lines)} lines could not be read` : ""),
      h("div", {class: "tiles"},
        tile("Requests per second", rate(log.requests_per_s)),
        tile("Errors", percent(log.error_rate, 1), "", log.error_rate > 0.05 ? "is-bad" : ""),
        tile("Refusals", percent(log.refusal_rate, 1)),
        tile("Without sources", percent(log.no_source_rate, 1)),
        tile("Prompt tokens per second", rate(log.prompt_tokens_per_s)),
        tile("Completion tokens per second", rate(log.completion_tokens_per_s)))),
    section("Waiting times", h("div", {class: "wide"}, h("table", null,
      h("thead", null, h("tr", null, ["", "p50", "p95", "p99"].map((name) => h("th", {key: name, class: "number"}, name)))),
      h("tbody", null, ["queue_s", "ttft_s", "time_per_token_s", "total_s"].map((name) => h("tr", {key: name},
        h("th", null, title(name)), ["p50", "p95", "p99"].map((each) => h("td", {key: each, class: "number"},
          log[name] ? duration(log[name][each]) : UNKNOWN)))))))),
    section("Over time", h("div", {class: "charts"}, grouped(log.series).map(([key, names]) => chart(key, {
      ...common, title: title(key), write: writer(names[0]),
      lines: names.map((name, i) => line(store, log.id, name, {label: PERCENTILE.exec(name)?.[2] || "",
        color: names.length > 1 ? `series-${i}` : "series-0", along: "time"}))})))),
    section("Drift", drift(log)),
    section("Who answered", h("div", {class: "shares"},
      shares("Arm", log.by_arm), shares("Version", log.by_version), shares("End", log.by_finish))),
  ].filter(Boolean);
}

// p50_total_s and p95_total_s are one chart.
function grouped(names) {
  const groups = new Map();
  for (const name of names) {
    const key = name.replace(PERCENTILE, (_, before, __, after) => before && after ? "_" : "");
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(name);
  }
  return [...groups];
}

function drift(log) {
  if (!log.drift.length) return h("p", {class: "muted"}, "Nothing is compared yet.");
  return [
    h("p", {class: "muted"}, "The latest requests against the reference window; several figures are looked at, "
      + "and the alarm allows for it."),
    h("div", {class: "wide"}, h("table", {class: "drift"},
      h("thead", null, h("tr", null, ["Figure", "", "Reference", "Now", "PSI", "KS", "p", "What it says"]
        .map((name) => h("th", {key: name}, name)))),
      h("tbody", null, log.drift.map((each) => h("tr", {key: each.name},
        h("th", null, title(each.name)),
        h("td", null, h("span", {class: `pill is-${each.state}`}, each.state)),
        h("td", {class: "number"}, figure(each.reference_mean, 3)), h("td", {class: "number"}, figure(each.current_mean, 3)),
        h("td", {class: "number"}, figure(each.psi, 2)), h("td", {class: "number"}, figure(each.ks, 2)),
        h("td", {class: "number"}, figure(each.p_value, 2)),
        h("td", {class: "words"}, each.message, each.since === null ? "" : ` (since ${clock(each.since)})`)))))),
  ];
}

function shares(name, counts) {
  const all = Object.values(counts).reduce((sum, value) => sum + value, 0);
  return h("div", {class: "card", key: name}, h("h3", null, name),
    Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([key, value]) => h("div", {class: "share", key},
      h("span", null, key || UNKNOWN), h("b", null, count(value)),
      h("div", {class: "bar"}, h("i", {style: {width: `${value / all * 100}%`}})))),
    all ? null : h("p", {class: "muted"}, "none in this window"));
}

