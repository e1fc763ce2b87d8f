// The page: which view the address names, and when it is drawn.
//
//   #/  #/run/ID  #/compare?runs=A,B&metric=loss  #/traffic/ID  #/quality  #/alerts

import {h, patch} from "./dom.js";
import {Store} from "./store.js";
import {repaint} from "./chart.js";
import * as overview from "./overview.js";
import * as run from "./run.js";
import * as compare from "./compare.js";
import * as traffic from "./traffic.js";
import * as quality from "./quality.js";
import * as alerts from "./alerts.js";

const VIEWS = {"": overview, run, compare, traffic, quality, alerts};
const TABS = [["", "Overview"], ["compare", "Compare"], ["traffic", "Traffic"], ["quality", "Quality"], ["alerts", "Alerts"]];
const STATES = {
  live: "live", connecting: "connecting", away: "the monitor is away; trying again",
  locked: "open this page with ?token=",
};
// The width of A4 between its margins.
const PAPER_PX = 710;
const THEMES = ["auto", "light", "dark"];

const [top, main] = [document.getElementById("top"), document.getElementById("view")];
const store = new Store(schedule);
let isScheduled = false;

function place() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id] = path.split("/");
  return {
    name: name in VIEWS ? name : "",
    params: {...Object.fromEntries(new URLSearchParams(query || "")), id: id === undefined ? "" : decodeURIComponent(id)},
  };
}

function schedule() {
  if (isScheduled) return;
  isScheduled = true;
  // A hidden page draws nothing; a frame asked for then would never come.
  const soon = document.hidden ? (draw) => setTimeout(draw, 1000) : requestAnimationFrame;
  soon(() => {
    isScheduled = false;
    draw();
  });
}

function draw() {
  const {name, params} = place();
  const view = VIEWS[name];
  patch(top, head(name));
  if (!store.overview) {
    patch(main, [h("p", {class: "waiting", key: "waiting"}, STATES[store.state])]);
    return;
  }
  store.follow(view.want(store, params), view.points);
  patch(main, [h("div", {key: `${name}/${params.id}`, class: `page page-${name || "overview"}`},
    view.view(store, params, schedule))]);
  const firing = numFiring();
  document.title = `${firing ? `(${firing}) ` : ""}monitor`;
  document.documentElement.dataset.drawn = "1";
}

const numFiring = () => (store.overview?.alerts || []).filter((alert) => alert.resolved === null).length;

function head(current) {
  const firing = numFiring();
  return [h("div", {class: "bar-inner", key: "bar"},
    h("a", {class: "brand", href: "#/"}, h("img", {src: "static/icon.svg", alt: "", width: 24, height: 24}), h("span", null, "monitor")),
    h("nav", null, TABS.map(([name, words]) => h("a", {key: name, href: `#/${name}`,
      class: name === current || (current === "run" && name === "") ? "is-on" : "",
      "aria-current": name === current ? "page" : undefined}, words,
    name === "alerts" && firing ? h("b", {class: "badge"}, firing) : null))),
    h("span", {class: `state is-${store.state}`, role: "status"}, h("i"), h("span", null, STATES[store.state])),
    h("button", {class: "theme", title: "light, dark, or as the system has it", onclick: nextTheme}, theme()))];
}

function theme() {
  return document.documentElement.dataset.theme || "auto";
}

function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  repaint();
}

function nextTheme() {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  setTheme(next);
  try {
    localStorage.setItem("theme", next);
  } catch {
    // Storage may be forbidden; the choice then lasts as long as the page.
  }
  schedule();
}

function start() {
  let kept = "auto";
  try {
    kept = localStorage.getItem("theme") || "auto";
  } catch {
    // As above.
  }
  setTheme(THEMES.includes(kept) ? kept : "auto");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  // Paper is white whatever the screen is.
  let before = "auto";
  addEventListener("beforeprint", () => {
    before = theme();
    // A canvas that is resized for paper comes out empty: everything keeps its size and is scaled.
    document.documentElement.style.setProperty("--screen", `${main.clientWidth}px`);
    document.documentElement.style.setProperty("--scale", String(Math.min(1, PAPER_PX / main.clientWidth)));
    setTheme("light");
  });
  addEventListener("afterprint", () => setTheme(before));
  addEventListener("hashchange", () => {
    scrollTo(0, 0);
    schedule();
  });
  document.addEventListener("visibilitychange", schedule);
  // "3 s ago" goes on when nothing else does.
  setInterval(schedule, 1000);
  store.start();
}

start();
