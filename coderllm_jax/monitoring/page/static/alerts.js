// What is firing, what was, and the rules that decide it.

import {h} from "./dom.js";
import {alertRow, section} from "./parts.js";

export const points = 100;
export const want = () => ({});

export function view(store) {
  const {alerts = [], rules = []} = store.overview;
  const firing = alerts.filter((alert) => alert.resolved === null);
  const past = alerts.filter((alert) => alert.resolved !== null);
  const row = (alert) => alertRow(alert, store.now);
  return [
    section("Firing now", firing.length ? h("ul", {class: "alerts"}, firing.map(row))
      : h("p", {class: "quiet"}, "All quiet.")),
    section("History", past.length ? h("ul", {class: "alerts"}, past.map(row))
      : h("p", {class: "muted"}, "Nothing was raised yet.")),
    section("Rules", h("div", {class: "wide"}, h("table", null,
      h("thead", null, h("tr", null, ["Rule", "Severity", "Kind", "What raises it", "From", "Firing"]
        .map((name) => h("th", {key: name}, name)))),
      h("tbody", null, rules.map((rule) => h("tr", {key: rule.name},
        h("th", null, rule.name), h("td", null, h("span", {class: `pill is-${rule.severity}`}, rule.severity)),
        h("td", null, rule.kind), h("td", {class: "words"}, rule.description), h("td", {class: "muted"}, rule.origin),
        h("td", {class: "number"}, rule.num_firing || ""))))))),
  ];
}
