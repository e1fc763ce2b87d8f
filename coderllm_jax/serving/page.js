// Asks the server this page came from and shows the answer as it is written. Whatever a model, a
// passage or an error says is put in as text (textContent), never as markup.
"use strict";

const at = (id) => document.getElementById(id);
const talk = [];
let going = null;

function say(text, isWrong = false) {
  at("state").textContent = text;
  at("state").classList.toggle("wrong", isWrong);
}

function add(parent, tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  parent.append(made);
  return made;
}

async function readError(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `HTTP ${response.status}`;
  }
}

async function findModels() {
  const response = await fetch("/v1/models");
  if (!response.ok) throw new Error(await readError(response));
  const names = (await response.json()).data.map((model) => model.id);
  at("model").replaceChildren(...names.map((name) => new Option(name, name)));
  const best = ["trained-rag", "trained", "rag"].find((name) => names.includes(name));
  if (best) at("model").value = best;
}

async function look() {
  try {
    if (!at("model").options.length) await findModels();
    const state = (await (await fetch("/ready")).json()).status;
    say(state);
    if (state !== "ready") setTimeout(look, 1000);
  } catch (error) {
    say(error.message, true);
    setTimeout(look, 3000);
  }
}

// Server-sent events of a response, parsed, until [DONE].
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function showEnd() {
  const scrolled = at("talk").parentElement;
  scrolled.scrollTop = scrolled.scrollHeight;
}

function showSources(item, sources) {
  if (!sources.length) return;
  const list = add(item, "ol", "sources");
  for (const source of sources) {
    add(list, "li", "", `${source.id} (${source.source}), score ${source.score.toFixed(2)}`);
  }
}

async function ask(question) {
  const messages = [...talk, { role: "user", content: question }];
  add(add(at("talk"), "li", "user"), "p", "text", question);
  const item = add(at("talk"), "li", "assistant");
  const text = add(item, "p", "text going");
  showEnd();
  const started = performance.now();
  let first = 0, usage = null, finish = "", sources = [];
  going = new AbortController();
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      signal: going.signal,
      body: JSON.stringify({
        model: at("model").value,
        messages,
        temperature: Number(at("temperature").value),
        max_tokens: Number(at("longest").value),
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
    if (!response.ok) throw new Error(await readError(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage || usage;
      sources = event.sources || sources;
      for (const choice of event.choices) {
        if (choice.delta.content) {
          first = first || performance.now();
          text.textContent += choice.delta.content;
          showEnd();
        }
        finish = choice.finish_reason || finish;
      }
    }
    talk.push(messages.at(-1), { role: "assistant", content: text.textContent });
    showSources(item, sources);
    const seconds = (performance.now() - started) / 1000;
    const waited = first ? `first token after ${((first - started) / 1000).toFixed(2)} s, ` : "";
    const cut = finish === "length" ? ", cut there" : "";
    add(item, "p", "about", `${at("model").value}: ${waited}${usage.completion_tokens} tokens in ${seconds.toFixed(1)} s${cut}`);
  } catch (error) {
    const isStopped = error.name === "AbortError";
    add(item, "p", isStopped ? "about" : "about wrong", isStopped ? "stopped" : error.message);
  } finally {
    text.classList.remove("going");
    item.dataset.done = "yes";
    showEnd();
    going = null;
  }
}

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (!question || going) return;
  at("hint").hidden = true;
  at("question").value = "";
  at("send").disabled = true;
  at("stop").disabled = false;
  await ask(question);
  at("send").disabled = false;
  at("stop").disabled = true;
  at("question").focus();
});

at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
});

at("stop").addEventListener("click", () => going?.abort());

at("clear").addEventListener("click", () => {
  going?.abort();
  talk.length = 0;
  at("talk").replaceChildren();
  at("hint").hidden = false;
});

look();
