// Figures in words. What is null was not exposed or is not known: it is never shown as 0.

export const UNKNOWN = "—";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
// Numbers that JSON has not are words already.
const isWord = (value) => typeof value === "string";

export function figure(value, digits = 4) {
  if (isWord(value)) return value;
  if (!isNumber(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-4 || size >= 1e7) {
    return value.toExponential(2).replace(/\.?0*e/, "e").replace("e-", "e−").replace("e+", "e").replace("-", "−");
  }
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits))).replace("-", "−");
}

export function count(value) {
  return isNumber(value) ? Math.round(value).toLocaleString("en") : UNKNOWN;
}

export function rate(value) {
  if (!isNumber(value)) return isWord(value) ? value : UNKNOWN;
  return value >= 100 ? count(value) : figure(value, 3);
}

export function percent(value, digits = 0) {
  if (!isNumber(value)) return isWord(value) ? value : UNKNOWN;
  const scaled = value * 100;
  const needed = scaled !== 0 && Math.abs(scaled) < 1 ? Math.max(digits, 2) : digits;
  return `${Number(scaled.toFixed(needed))} %`.replace("-", "−");
}

export function bytes(value) {
  if (!isNumber(value)) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (value >= 1024 && i < units.length - 1) {
    value /= 1024;
    i += 1;
  }
  return `${value >= 100 || i === 0 ? Math.round(value) : Number(value.toPrecision(3))} ${units[i]}`;
}

export function duration(seconds) {
  if (!isNumber(seconds)) return UNKNOWN;
  if (seconds > 0 && seconds < 0.001) return `${figure(seconds * 1e6, 2)} µs`;
  if (seconds > 0 && seconds < 1) return `${figure(seconds * 1000, 3)} ms`;
  if (seconds < 10) return `${figure(seconds, 2)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = seconds / 60;
  if (minutes < 90) return `${Math.round(minutes)} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${Math.round(minutes % 60)} min`;
  return `${Math.round(hours / 24)} days`;
}

export function between(low, high) {
  const [first, second] = [duration(low), duration(high)];
  if (first === second) return first;
  const unit = second.replace(/^[\d.,]+ /, "");
  return first.endsWith(` ${unit}`) && !/[hm]\D.*\d/.test(second)
    ? `${first.slice(0, -unit.length - 1)}–${second}` : `${first} – ${second}`;
}

export function ago(time, now) {
  if (!isNumber(time)) return UNKNOWN;
  const seconds = Math.max(0, Math.round(now - time));
  const isHours = seconds >= 7200 && seconds < 48 * 3600;
  return `${isHours ? `${Math.round(seconds / 3600)} h` : duration(seconds)} ago`;
}

export function clock(time) {
  if (!isNumber(time)) return UNKNOWN;
  const at = new Date(time * 1000);
  const hour = at.toLocaleTimeString([], {hour: "2-digit", minute: "2-digit", hour12: false});
  if (at.toDateString() === new Date().toDateString()) return hour;
  return `${at.toLocaleDateString("en", {day: "numeric", month: "short"})}, ${hour}`;
}

const TITLES = {
  loss: "Loss", eval_loss: "Evaluation loss", learning_rate: "Learning rate",
  grad_norm: "Gradient norm", tokens_per_s: "Tokens per second", data_wait_s: "Wait for data",
  mfu: "Model FLOP use", token_accuracy: "Token accuracy", perplexity: "Perplexity",
  step_time_s: "Step time", requests_per_s: "Requests per second", error_rate: "Errors",
  cpu_fraction: "Processor", memory_used_fraction: "Memory", memory_fraction: "Memory",
  completion_tokens_per_s: "Completion tokens per second",
  prompt_tokens_per_s: "Prompt tokens per second", total_s: "Whole answer",
  ttft_s: "First token", time_per_token_s: "Time per token", queue_s: "Queue",
  refusal_rate: "Refusals", no_source_rate: "Answers without sources",
};

export function title(name) {
  if (TITLES[name]) return TITLES[name];
  const words = name.replaceAll("_", " ").replace(/ per s$/, " per second")
    .replace(/ (s|c)$/, (_, unit) => unit === "s" ? ", s" : ", °C").replace(/ fraction$/, "");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

// How a series' values are written, by its name.
export function writer(name) {
  if (/(_fraction|_rate|mfu|accuracy|goodput)$/.test(name) && name !== "learning_rate") {
    return (value) => percent(value, 1);
  }
  if (/_bytes$/.test(name)) return bytes;
  if (/_s$/.test(name) && !/_per_s$/.test(name)) return duration;
  return (value) => figure(value);
}
