// How good each version was: every figure over time, with its interval, as evaluations wrote them.

import {h} from "./dom.js";
import {UNKNOWN, clock, duration, figure, percent} from "./words.js";
import {section} from "./parts.js";

export const points = 100;
export const want = () => ({});

const MOST_VERSIONS = 8;
const WIDTH = 420;
const HEIGHT = 150;
const EDGE = {left: 46, right: 14, top: 12, bottom: 22};

export function view(store) {
  const {versions, names} = store.overview.quality || {versions: [], names: []};
  if (!versions.length) {
    return [h("div", {class: "card is-empty", key: "none"}, h("p", null, h("b", null, "Nothing was evaluated yet.")),
      h("p", {class: "muted"}, "Scores appear here when ", h("code", null, "python -m coderllm_jax.evaluate"),
        " has written its results."))];
  }
  // The newest first: what was evaluated last is what is asked about.
  const newest = [...versions].reverse().slice(0, MOST_VERSIONS);
  return [
    section("Versions", h("div", {class: "wide"}, h("table", null,
      h("thead", null, h("tr", null, ["Version", "Evaluated", "Model"].map((name) => h("th", {key: name}, name)))),
      h("tbody", null, newest.map((version) => h("tr", {key: keyOf(version)},
        h("th", {title: version.path}, version.name), h("td", null, clock(version.time)), h("td", null, version.model))))))),
    grouped(names).map(([group, members]) => section(spoken(group) || "Scores",
      curves(members, group, versions),
      h("div", {class: "wide"}, h("table", null,
        h("thead", null, h("tr", null, h("th", {key: ""}, "Figure"),
          newest.map((version) => h("th", {key: keyOf(version), class: "number"}, version.name)))),
        h("tbody", null, members.map((name) => h("tr", {key: name}, h("th", null, within(name, group)),
          newest.map((version) => h("td", {key: keyOf(version), class: "number"}, cell(scoreOf(version, name)))))))))))
  ];
}

// A section for each suite: qa_accuracy/seen/bleu is "seen · bleu" of qa_accuracy.
function grouped(names) {
  const groups = new Map();
  for (const name of names) {
    const group = /^([^/.]+)[/.]/.exec(name)?.[1] || "";
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(name);
  }
  return [...groups];
}

// A curve needs two versions that have the figure.
function curves(names, group, versions) {
  const several = names.filter((name) => versions.filter((version) => scoreOf(version, name)).length > 1);
  return several.length ? h("div", {class: "charts"}, several.map((name) => plot(name, group, versions))) : null;
}

const within = (name, group) => spoken(group ? name.slice(group.length + 1) : name);

// An evaluation that was made again is two versions of one id.
const keyOf = (version) => `${version.id}@${version.time}`;
const scoreOf = (version, name) => version.scores.find((score) => score.name === name);
const spoken = (name) => name.split(/[/.]/).map((part) => part.replaceAll("_", " ")).join(" · ");

function write(score, value) {
  const name = score.name.replace(/^[^/.]+[/.]/, ""); // qa_accuracy, the suite, is no share
  if (/_s([/.]p\d+)?$/.test(name) && !/_per_s$/.test(name)) return duration(value);
  const isShare = /pass@|f1|identical|passed|ended_once|precision|recall|accuracy|rouge|rate|parses|runs|share|fraction/.test(name);
  return isShare && Math.abs(value) <= 1 ? percent(value, 1) : figure(value, 3);
}

function cell(score) {
  if (!score) return UNKNOWN;
  const bounds = score.low === null || score.high === null ? null
    : h("small", {class: "muted"}, ` ${write(score, score.low)} – ${write(score, score.high)}`);
  return [h("b", {key: "b"}, write(score, score.value)), bounds];
}

const overlap = (one, other) => (one.low ?? one.value) <= (other.high ?? other.value)
  && (other.low ?? other.value) <= (one.high ?? one.value);

function plot(name, group, versions) {
  const known = versions.map((version, i) => ({i, version, score: scoreOf(version, name)})).filter((each) => each.score);
  const values = known.flatMap(({score}) => [score.value, score.low ?? score.value, score.high ?? score.value]);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * 0.12;
  [low, high] = [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
  const x = (i) => EDGE.left + (versions.length < 2 ? 0.5 : i / (versions.length - 1)) * (WIDTH - EDGE.left - EDGE.right);
  const y = (value) => HEIGHT - EDGE.bottom - (value - low) / (high - low) * (HEIGHT - EDGE.top - EDGE.bottom);
  const newest = known.at(-1);
  const before = known.at(-2);
  const change = newest && before ? newest.score.value - before.score.value : 0;
  const isBetter = newest?.score.lower_is_better ? change < 0 : change > 0;
  // Where intervals overlap, chance may be all of it.
  const isClear = change && !overlap(newest.score, before.score);
  return h("figure", {class: "chart", key: name},
    h("div", {class: "chart-head"}, h("b", null, within(name, group)), h("span", {class: "legend"},
      newest ? h("b", null, write(newest.score, newest.score.value)) : UNKNOWN,
      change ? h("span", {class: isClear ? (isBetter ? "good" : "bad") : "muted"}, `${change > 0 ? "+" : "−"}${write(newest.score, Math.abs(change))}`) : null,
      h("span", null, newest?.score.lower_is_better ? "lower is better" : ""))),
    h("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": spoken(name)},
      [low + (high - low) * 0.1, (low + high) / 2, high - (high - low) * 0.1].map((value, i) => h("g", {key: `grid${i}`},
        h("line", {class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value)}),
        h("text", {x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end"}, known[0] ? write(known[0].score, value) : ""))),
      h("polyline", {class: "line", points: known.map(({i, score}) => `${x(i)},${y(score.value)}`).join(" ")}),
      known.map(({i, version, score}) => h("g", {key: keyOf(version)},
        score.low === null || score.high === null ? null
          : h("line", {class: "whisker", x1: x(i), x2: x(i), y1: y(score.low), y2: y(score.high)}),
        h("circle", {cx: x(i), cy: y(score.value), r: 4},
          h("title", null, `${version.name}: ${write(score, score.value)}`)))),
      h("text", {x: x(0), y: HEIGHT - 4, "text-anchor": versions.length < 2 ? "middle" : "start"}, clock(versions[0].time)),
      versions.length > 1 ? h("text", {x: x(versions.length - 1), y: HEIGHT - 4, "text-anchor": "end"}, clock(versions.at(-1).time)) : null));
}
