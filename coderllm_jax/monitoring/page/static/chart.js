// One chart: dygraphs draws the lines; title, legend and colors are this page's.
//
//   h("div", {key, class: "chart", widget: Chart, data: {
//     title, lines: [{label, color: 0, x: [], y: [], isDotted}], along: "step" | "time" | "elapsed",
//     isLog, smoothing: 0.6, write: (value) => text, zoom: Zoom, height}})
//
// Labels never reach dygraphs, which would read them as markup: its series are called 1, 2, 3.
// A gap (a value that is not finite) breaks the line; a step that another line has does not.

const charts = new Set();

// The part of the x axis that several charts show; null is all of it.
export class Zoom {
  constructor() {
    this.window = null;
    this.members = new Set();
  }

  set(window, from) {
    this.window = window;
    for (const chart of this.members) if (chart !== from) chart.show(window);
    this.onChange?.();
  }
}

export function repaint() {
  for (const chart of charts) chart.paint();
}

export function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

const faint = (hex) => `${hex}${hex.length === 7 ? "55" : "5"}`;

class DygraphChart {
  constructor(element) {
    this.element = element;
    this.head = element.appendChild(document.createElement("div"));
    this.head.className = "chart-head";
    this.name = this.head.appendChild(document.createElement("b"));
    this.legend = this.head.appendChild(document.createElement("span"));
    this.legend.className = "legend";
    this.canvas = element.appendChild(document.createElement("div"));
    this.canvas.className = "plot";
    this.empty = element.appendChild(document.createElement("p"));
    this.empty.className = "chart-empty";
    this.hovered = null;
    this.sizes = new ResizeObserver(() => this.graph?.resize());
    this.sizes.observe(this.canvas);
    charts.add(this);
  }

  update(data) {
    if (this.data?.zoom !== data.zoom) {
      this.data?.zoom?.members.delete(this);
      data.zoom?.members.add(this);
    }
    this.data = data;
    const stamp = JSON.stringify([data.version, data.isLog, data.smoothing, data.along, data.title,
      data.lines.map((line) => [line.label, line.color, line.x.length, line.x.at(-1), line.y.at(-1)])]);
    if (stamp === this.stamp) return;
    this.stamp = stamp;
    this.paint();
  }

  paint() {
    const {data} = this;
    if (!data) return;
    this.name.textContent = data.title || "";
    const numPoints = Math.max(0, ...data.lines.map((line) => line.x.length));
    this.element.dataset.points = data.lines.reduce((sum, line) => sum + line.x.length, 0);
    this.element.classList.toggle("is-empty", !numPoints);
    this.empty.textContent = numPoints ? "" : data.empty || "no points yet";
    this.showLegend();
    if (!numPoints) return;
    const {rows, series} = arrange(data);
    const options = this.options(rows, series);
    if (this.graph) this.graph.updateOptions(options);
    else {
      this.graph = new Dygraph(this.canvas, rows, {...options, ...this.fixed()});
      if (data.zoom?.window) this.show(data.zoom.window);
    }
    this.element.dataset.drawn = "1";
  }

  options(rows, series) {
    const {data} = this;
    const write = data.write || String;
    const perSeries = {};
    series.forEach((each, i) => {
      perSeries[String(i + 1)] = {
        strokeWidth: each.isRaw ? 1 : 1.8, drawPoints: each.length < (each.isDotted ? 60 : 40),
        pointSize: each.isDotted ? 3 : 1.8, highlightCircleSize: each.isRaw ? 0 : 3.5,
        strokePattern: null,
      };
    });
    return {
      file: rows,
      labels: ["x", ...series.map((_, i) => String(i + 1))],
      colors: series.map((each) => each.isRaw ? faint(color(each.color)) : color(each.color)),
      series: perSeries,
      logscale: Boolean(data.isLog),
      gridLineColor: color("rule"),
      axisLineColor: color("rule"),
      includeZero: Boolean(data.fromZero) && !data.isLog,
      axes: {
        x: {
          drawGrid: false, pixelsPerLabel: 74,
          ticker: tickers[data.along] || Dygraph.numericTicks,
          axisLabelFormatter: writers[data.along] || writers.step,
        },
        y: {
          axisLabelWidth: 50, pixelsPerLabel: data.size === "is-small" ? 24 : 34,
          axisLabelFormatter: (value) => write(value),
        },
      },
    };
  }

  fixed() {
    const own = Dygraph.Interaction.defaultModel;
    return {
      connectSeparatedPoints: true, rightGap: 10, xRangePad: 4, yRangePad: 8, axisLabelFontSize: 11,
      axisTickSize: 0, labelsDivWidth: 0, showLabelsOnHighlight: false,
      // A finger scrolls the page; only a mouse selects.
      interactionModel: {
        mousedown: own.mousedown, willDestroyContextMyself: true,
        dblclick: () => this.zoomTo(null),
      },
      zoomCallback: (low, high) => this.data.zoom?.set([low, high], this),
      highlightCallback: (_, x, points) => {
        this.hovered = {x, points};
        this.showLegend();
      },
      unhighlightCallback: () => {
        this.hovered = null;
        this.showLegend();
      },
    };
  }

  zoomTo(window) {
    this.show(window);
    this.data.zoom?.set(window, this);
  }

  show(window) {
    this.graph?.updateOptions({dateWindow: window, valueRange: [null, null]});
  }

  showLegend() {
    const {data} = this;
    const write = data.write || String;
    const parts = [];
    if (this.hovered) {
      const at = document.createElement("span");
      at.textContent = (writers[`${data.along}Long`] || writers.stepLong)(this.hovered.x);
      parts.push(at);
    }
    for (const line of data.lines) {
      const i = this.hovered ? nearest(line.x, this.hovered.x) : line.x.length - 1;
      const part = document.createElement("span");
      const dot = part.appendChild(document.createElement("i"));
      dot.style.setProperty("background", `var(--${line.color})`);
      if (line.label) part.append(`${line.label} `);
      const value = part.appendChild(document.createElement("b"));
      value.textContent = i < 0 ? "" : line.y[i] === null ? "not finite" : write(line.y[i]);
      parts.push(part);
    }
    this.legend.replaceChildren(...parts);
  }

  destroy() {
    charts.delete(this);
    this.data?.zoom?.members.delete(this);
    this.sizes.disconnect();
    this.graph?.destroy();
  }
}

export const Chart = (element) => new DygraphChart(element);

// The lines as one table, x first; smoothing adds a strong line over each, which becomes faint.
function arrange({lines, smoothing, isLog}) {
  const xs = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const columns = [];
  const series = [];
  for (const line of lines) {
    // A mean of a handful of points would lag behind them all.
    const isSmoothed = smoothing > 0 && line.x.length > 20 && !line.isDotted;
    const values = line.y.map((value) => value === null || (isLog && value <= 0) ? NaN : value);
    columns.push(new Map(line.x.map((x, i) => [x, values[i]])));
    const {length} = line.x;
    series.push({color: line.color, isRaw: isSmoothed, isDotted: line.isDotted, length});
    if (isSmoothed) {
      const smooth = smoothed(values, smoothing);
      columns.push(new Map(line.x.map((x, i) => [x, smooth[i]])));
      series.push({color: line.color, isRaw: false, isDotted: false, length});
    }
  }
  return {series, rows: xs.map((x) => [x, ...columns.map((column) => column.get(x) ?? null)])};
}

// An exponential mean that starts at its first value, corrected for its short memory there.
function smoothed(values, weight) {
  let mean = 0;
  let total = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return NaN;
    mean = weight * mean + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return mean / total;
  });
}

function nearest(xs, x) {
  let low = 0;
  let high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - xs[low - 1] < xs[low] - x ? low - 1 : low;
}

const SPANS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400];
const pad = (value) => String(value).padStart(2, "0");

function spans(low, high, pixels, write) {
  const atLeast = (high - low) / Math.max(2, pixels / 80);
  const step = SPANS.find((span) => span >= atLeast) || Math.ceil(atLeast / 86400) * 86400;
  const ticks = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) {
    ticks.push({v: at, label: write(at, step)});
  }
  return ticks;
}

function elapsed(seconds) {
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.round(seconds % 60)];
  return h ? `${h}:${pad(m)} h` : m ? `${m}:${pad(s)} min` : `${s} s`;
}

// Midnight is where the reader is; ticks are at whole hours there.
function local(seconds) {
  return seconds - new Date(seconds * 1000).getTimezoneOffset() * 60;
}

function time(seconds, step) {
  const at = new Date(seconds * 1000);
  if (step >= 86400) return `${at.getDate()}.${at.getMonth() + 1}.`;
  const text = `${pad(at.getHours())}:${pad(at.getMinutes())}`;
  return step < 60 ? `${text}:${pad(at.getSeconds())}` : text;
}

const tickers = {
  time: (low, high, pixels) => {
    const shift = local(low) - low;
    return spans(low + shift, high + shift, pixels, (at, step) => time(at - shift, step))
      .map(({v, label}) => ({v: v - shift, label}));
  },
  elapsed: (low, high, pixels) => spans(low, high, pixels, elapsed),
};

const whole = (value) => Number.isInteger(value) ? value.toLocaleString("en") : "";
const writers = {
  step: whole,
  time: (value) => time(value, 60),
  elapsed,
  stepLong: (value) => `step ${Math.round(value).toLocaleString("en")}`,
  timeLong: (value) => new Date(value * 1000).toLocaleString("en-GB"),
  elapsedLong: elapsed,
};

// Only lines and grid; a legend or a title of its own would be markup.
Dygraph.PLUGINS = [Dygraph.Plugins.Axes, Dygraph.Plugins.Grid];
