"""What filters the questions of a comparison page: a bar of choices and the page's one script.

    every question   <details class="question" data-number="7" data-set="0" data-kind="2"
                              data-outcomes="right part wrong none" data-spread="0.75" …>
    the bar          hidden until the script is there to obey it; without a script, and on paper,
                     every question is shown
    a pick           a number elsewhere on the page that stands for questions, and shows those

The script reads nothing but those attributes and the page's words, and writes nothing but which
questions are shown and in what order, and plain text. Arms, sets and kinds are numbers in it: a
name that somebody chose is never part of a selector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coderllm_jax.reporting.comparison_content import Arm, dot
from coderllm_jax.reporting.page import text

OUTCOMES = {
    "right": "right",
    "part": "partly",
    "wrong": "wrong",
    "runs": "runs",
    "fails": "does not run",
    "none": "no answer",
    "given": "not scored",
}
_ORDERS = {
    "number": "as asked",
    "spread": "arms differ most",
    "worst": "worst first",
    "best": "best first",
}

SCRIPT = """"use strict";
(() => {
  const bar = document.getElementById("filters");
  if (!bar) return;
  const list = document.getElementById("questions");
  const cards = [...list.querySelectorAll("details.question")];
  const choices = [...bar.querySelectorAll("select[data-by]")];
  const find = (id) => document.getElementById(id);
  const search = find("search"), order = find("order"), told = find("shown");
  const only = find("only"), onlyWords = find("only-words");
  const wordsOf = new Map();
  let picked = null, wait = 0;

  const words = (card) => {
    if (!wordsOf.has(card)) {
      const said = [...card.querySelectorAll(".said,pre")].map((part) => part.textContent);
      wordsOf.set(card, said.join("\\n").toLowerCase());
    }
    return wordsOf.get(card);
  };
  const isChosen = (card, choice) => {
    const by = choice.dataset.by;
    const value = by === "arm" ? card.dataset.outcomes.split(" ")[choice.dataset.arm]
      : card.dataset[by];
    return choice.value === "" || choice.value === value;
  };
  const isShown = (card, parts) => (!picked || picked.has(card.dataset.number))
    && choices.every((choice) => isChosen(card, choice))
    && parts.every((part) => words(card).includes(part));

  const rank = (card) => {
    const by = order.value, of = card.dataset;
    if (by === "number") return Number(of.number);
    const value = by === "spread" ? -of.spread : by === "best" ? -of.mean : +of.mean;
    return Number.isNaN(value) ? Infinity : value;
  };
  const sort = () => {
    const ranked = cards.map((card) => [rank(card), Number(card.dataset.number), card]);
    ranked.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] - b[1]));
    list.append(...ranked.map((one) => one[2]));
  };
  const apply = () => {
    const parts = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      card.hidden = !isShown(card, parts);
      shown += !card.hidden;
    }
    told.textContent = shown + " of " + cards.length + " questions";
    only.hidden = !picked;
  };
  const clear = () => {
    picked = null;
    search.value = "";
    for (const choice of choices) choice.value = "";
    apply();
  };
  const show = () => {
    const card = location.hash.startsWith("#q") && document.getElementById(location.hash.slice(1));
    if (!card) return;
    const question = card.closest("details.question");
    if (question.hidden) clear();
    question.open = true;
    question.scrollIntoView();
  };

  for (const choice of choices) choice.addEventListener("change", apply);
  order.addEventListener("change", sort);
  search.addEventListener("input", () => {
    clearTimeout(wait);
    wait = setTimeout(apply, 120);
  });
  find("clear").addEventListener("click", clear);
  find("any").addEventListener("click", () => { picked = null; apply(); });
  find("unfold").addEventListener("click", () => {
    const open = cards.some((card) => !card.hidden && !card.open);
    for (const card of cards) if (!card.hidden) card.open = open;
  });
  document.addEventListener("click", (event) => {
    const pick = event.target.closest("button.pick");
    if (!pick) return;
    clear();
    picked = new Set(pick.dataset.numbers.split(" "));
    onlyWords.textContent = pick.dataset.words;
    apply();
    bar.scrollIntoView();
  });
  addEventListener("hashchange", show);
  document.documentElement.classList.add("scripted");
  bar.hidden = false;
  sort();
  apply();
  show();
})();
"""


def filter_bar(
    arms: Mapping[str, Arm],
    *,
    sets: Sequence[str],
    kinds: Sequence[str],
    outcomes: Mapping[str, Sequence[str]],
) -> str:
    """The choices: text, set, kind, each arm's outcome, order. outcomes: those each arm has."""
    parts = [
        '<label class="long">text<input id="search" type="search" autocomplete="off" '
        'placeholder="in questions, answers and passages"></label>'
    ]
    if len(sets) > 1:
        parts.append(_choice("set", 'data-by="set"', [(str(i), s) for i, s in enumerate(sets)]))
    if len(kinds) > 1:
        parts.append(_choice("kind", 'data-by="kind"', [(str(i), k) for i, k in enumerate(kinds)]))
    for place, arm in enumerate(arms.values()):
        found = [(key, words) for key, words in OUTCOMES.items() if key in outcomes[arm.name]]
        if len(found) > 1:
            parts.append(_choice(dot(arm), f'data-by="arm" data-arm="{place}"', found))
    options = "".join(f'<option value="{key}">{words}</option>' for key, words in _ORDERS.items())
    parts.append(f'<label>order<select id="order">{options}</select></label>')
    return (
        f'<div id="filters" class="card" hidden>{"".join(parts)}'
        '<div class="state"><b id="shown" aria-live="polite"></b>'
        '<span id="only" hidden>only where <span id="only-words"></span> '
        '<button type="button" id="any">show the others, too</button></span>'
        '<button type="button" id="unfold">fold or unfold all</button>'
        '<button type="button" id="clear">clear</button></div></div>'
    )


def pick(words: str, numbers: Sequence[int], meaning: str) -> str:
    """Words that stand for questions: with a script, a button that shows those alone."""
    if not numbers:
        return text(words)
    return (
        f'<button type="button" class="pick" data-numbers="{" ".join(map(str, numbers))}" '
        f'data-words="{text(meaning)}">{text(words)}</button>'
    )


def _choice(name: str, attributes: str, options: Sequence[tuple[str, str]]) -> str:
    """name: HTML."""
    offered = "".join(f'<option value="{value}">{text(words)}</option>' for value, words in options)
    return (
        f"<label><span>{name}</span><select {attributes}>"
        f'<option value="">any</option>{offered}</select></label>'
    )
