"""The page is one safe file with everything in it, whoever's words it holds."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from coderllm_jax.reporting.comparison_filter import SCRIPT
from coderllm_jax.reporting.comparison_report import render, write_comparison_report
from tests.reporting.comparisons import ARMS, LABELS, a_comparison, texts_of
from tests.reporting.outline import HOSTILE, Outline
from tests.reporting.test_page import policy_of

PLANTED = HOSTILE + (
    " <a href=javascript:alert(3)>x</a></style></title></textarea></select></button></svg><!-- "
    "<svg onload=alert(4)> onclick=alert(5) %3Cscript%3E"
)
# Texts that the page does not show: they are told in its own words, or are no words.
UNSEEN = re.compile(
    r"/comparisons/\d+/(words|family|test|effect)$|/(arm|name|figure|first|second|use_case|card)$"
    r"|/ranking/|/shared_with/|/num_"
)


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return a_comparison()


@pytest.fixture(scope="module")
def html(content: dict[str, Any]) -> str:
    return render(content)


def assert_is_self_contained(html: str) -> Outline:
    """Well-formed; one script, which the policy names; nothing that loads, nor leads away."""
    outline = Outline(html)
    assert not {"img", "link", "iframe", "object", "base", "form", "embed"} & set(outline.tags)
    assert outline.tags.count("script") == 1
    assert re.findall(r"<script>(.*?)</script>", html, re.DOTALL) == [SCRIPT]
    assert policy_of(html)["default-src"] == "'none'"
    assert policy_of(html)["script-src"].startswith("'sha256-")
    assert not any(name.startswith("on") for name, _ in outline.attributes)
    assert not [name for name, _ in outline.attributes if name in ("src", "action", "srcdoc")]
    ids = [value for name, value in outline.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    for name, value in outline.attributes:
        if name == "href":
            assert value[0] == "#"
            assert value[1:] in ids
        if name == "style":
            assert re.fullmatch(
                r"--(c:var\(--series-[0-5]\)|arms:\d)|(--c:var.*;)?opacity:[\d.]+", value
            )
    assert not re.search(r"url\(|@import|https?://", html)
    return outline


def cards_of(html: str) -> list[str]:
    """Every question's HTML, in order."""
    return re.findall(
        r'<details class="question".*?(?=<details class="question"|</section>)', html, re.S
    )


def test_the_page_is_well_formed_and_loads_nothing(html: str) -> None:
    assert_is_self_contained(html)


def test_planted_words_change_nothing_but_words() -> None:
    planted = assert_is_self_contained(render(a_comparison(words=PLANTED)))
    plain = assert_is_self_contained(render(a_comparison(words=" plain")))
    assert planted.tags == plain.tags
    assert [name for name, _ in planted.attributes] == [name for name, _ in plain.attributes]
    in_json = PLANTED.replace('"', '\\"')  # the configuration is shown as JSON
    assert planted.text.replace(in_json, " plain").replace(PLANTED, " plain") == plain.text


def test_every_text_of_the_file_is_on_the_page(content: dict[str, Any], html: str) -> None:
    words = Outline(html).text
    shown = [(at, text) for at, text in texts_of(content) if text and not UNSEEN.search(at)]
    assert len(shown) > 500
    hidden = ("set", "better", "verdict", "dimension", "finish", "currency", "device", "unit")
    missing = [
        at for at, text in shown if text not in words and at.rpartition("/")[2] not in hidden
    ]
    assert not missing


def test_the_verdict_comes_first_then_uses_with_strength_and_evidence(
    content: dict[str, Any], html: str
) -> None:
    words = Outline(html).text
    assert words.index("Use Fine-tuned + retrieval for offline batch") < words.index("At a glance")
    assert words.index("1,000 answers cost") < words.index("Offline batch")
    uses = re.findall(r'<div class="use"><span>(.*?)</span><b>(.*?)</b>.*?">(\w+)</span>', html)
    told = [(use, Outline(f"<b>{arm}</b>").text, strength) for use, arm, strength in uses]
    assert told == [
        ("Offline batch", "Fine-tuned + retrieval", "strong"),
        ("People who wait", "Fine-tuned", "moderate"),
        ("Must cite", "Retrieval", "strong"),
        ("Knowledge that changes weekly", "Retrieval", "weak"),
        ("Tight memory", "none of them", "none"),
    ]


def test_every_figure_of_every_arm_is_there_with_its_interval(
    content: dict[str, Any], html: str
) -> None:
    words = Outline(html).text
    for dimension in content["dimensions"]:
        for figure in dimension["figures"]:
            for arm, estimate in figure["arms"].items():
                if figure["unit"] == "share":
                    assert f"{estimate['value']:.3f}" in words, (figure["name"], arm)
                    assert f"{estimate['low']:.3f} to {estimate['high']:.3f}" in words


def test_what_is_better_when_lower_has_a_chart_of_its_own(content: dict[str, Any]) -> None:
    other = copy.deepcopy(content)
    figure = other["dimensions"][0]["figures"][0]
    figure["better"] = "lower"
    figure["arms"]["base"] |= {"value": -0.1, "low": -0.2, "high": 0.0}
    page = render(other)
    titles = [unescape(title) for title in re.findall(r"<figcaption>([^<]*)<", page)]
    assert "From 0 to 1 · what was trained on · lower is better" in titles
    assert "From 0 to 1 · what was trained on" in titles
    # An end below zero is drawn where it is, and the axis goes there.
    title = "<figcaption>From 0 to 1 · what was trained on · lower is better"
    chart = page[page.index(title) :].partition("</figure>")[0]
    assert "-0.5" in re.findall(r"<text[^>]*>([^<]*)</text>", chart)


def test_every_comparison_has_its_verdict(content: dict[str, Any], html: str) -> None:
    words = Outline(html).text
    for row in content["comparisons"]:
        assert f"{LABELS[row['first']]} against {LABELS[row['second']]}" in words
    counted = [row["verdict"] for row in content["comparisons"]]
    shown = re.findall(r'data-name="verdict on the first">([^<]*)<', html)
    assert shown.count("better") == counted.count("better") > 0
    assert shown.count("worse") == counted.count("worse") > 0
    assert shown.count("no difference these data can show") == counted.count("no_difference") > 0


def test_numbers_of_better_and_worse_questions_lead_to_those(
    content: dict[str, Any], html: str
) -> None:
    row = next(
        each
        for each in content["comparisons"]
        if (each["first"], each["second"], each["figure"], each["set"])
        == ("rag", "base", "fact_f1", "seen")
    )
    expected = [
        number
        for number, question in enumerate(content["questions"])
        if question["set"] == "seen"
        and question["answers"]["rag"]["scores"]["fact_f1"]
        > question["answers"]["base"]["scores"]["fact_f1"]
    ]
    assert len(expected) == row["num_better"] > 0
    meaning = "Retrieval is better than Base in Fact F1"
    (numbers,) = re.findall(
        rf'data-numbers="([\d ]+)" data-words="{re.escape(meaning)}">{row["num_better"]}<', html
    )
    assert [int(number) for number in numbers.split()] == expected


def test_a_figure_leads_to_the_questions_behind_it(content: dict[str, Any], html: str) -> None:
    expected = [
        number for number, each in enumerate(content["questions"]) if each["set"] == "unseen"
    ]
    shown = re.findall(r'data-numbers="([\d ]+)" data-words="Fact F1 was measured">([^<]*)<', html)
    assert [words for _, words in shown] == ["12 questions", "4 questions"]
    assert [int(number) for number in shown[1][0].split()] == expected


def test_evidence_leads_to_its_figure(html: str) -> None:
    place = re.search(r'<section id="([\w-]+)"><h2>Accuracy', html)
    assert place
    assert f'<a href="#{place[1]}"><span class="muted">accuracy/seen/fact_f1</span></a>' in html


def test_a_count_that_is_not_of_these_questions_leads_nowhere(content: dict[str, Any]) -> None:
    other = copy.deepcopy(content)
    for row in other["comparisons"]:
        row["num_better"] += 1
    assert " is better than " not in "".join(re.findall(r'data-words="([^"]*)"', render(other)))


def test_a_question_holds_everybodys_answer_facts_checks_and_passages(
    content: dict[str, Any], html: str
) -> None:
    cards = cards_of(html)
    assert len(cards) == len(content["questions"])
    for question, card in zip(content["questions"], cards, strict=True):
        words = unescape(card)
        for name, given in question["answers"].items():
            assert LABELS[name] in words
            for fact in (*given["facts"]["found"], *given["facts"]["missed"]):
                assert f"<code>{fact}</code>" in words
            for number, source in enumerate(given["sources"], 1):
                assert source["text"] in words
                cited = ", cited" if number in given["cited"] else ""
                assert f"{LABELS[name]} [{number}] {source['score']:.3f}{cited}<" in words
            if given["checks"]["runs"] is False:
                assert "its program does not run" in words
                assert "NameError: name 'jnp' is not defined" in words
            if given["finish"] == "length":
                assert "cut off at its longest" in words
        # Two arms were shown the same passages, which stand there once.
        assert words.count('<div class="passage">') == 2


def test_outcomes_are_told_in_the_arms_order(content: dict[str, Any], html: str) -> None:
    shown = re.findall(r'data-outcomes="([a-z ]+)"', html)
    for question, outcomes in zip(content["questions"], shown, strict=True):
        expected = [
            {1.0: "right", 0.5: "part", 0.0: "wrong"}[question["answers"][arm]["scores"]["fact_f1"]]
            for arm in ARMS
        ]
        assert outcomes.split() == expected


def test_changes_to_the_card_lead_to_the_questions_behind_them(
    content: dict[str, Any], html: str
) -> None:
    words = Outline(html).text
    assert "lora.rank 8 → 16" in words
    assert "data.kinds signature → signature, example" in words
    for number in range(4):
        assert f'<a href="#q{number}">{content["questions"][number]["id"]}</a>' in html
    assert ", not/asked" in html  # an id that was not asked is a word


def test_without_prices_that_is_said_and_time_is_told(html: str) -> None:
    words = Outline(html).text
    assert "; no prices were set." in words
    assert "No price was set." in words
    assert "chip-seconds per 1,000 answers →" in words
    assert "USD" not in words


def test_with_prices_costs_are_in_money() -> None:
    words = Outline(render(a_comparison(has_prices=True))).text
    assert "USD per 1,000 answers →" in words
    assert "no prices" not in words
    assert "0.137 USD" in words  # 412 chip-seconds at 1.20 an hour
    assert "0.296 USD" in words  # and 476.2 of training, over 1,000 answers


def test_questions_without_references_are_compared_in_the_rest() -> None:
    content = a_comparison(num_seen=0, num_unseen=0, num_asked=2)
    html = render(content)
    words = assert_is_self_contained(html).text
    assert "None of these questions has a reference answer" in words
    assert "Questions of your own have no reference." in words
    assert "nobody can say which answer is right" in words
    assert set(re.findall(r'data-outcomes="([a-z ]+)"', html)) == {"given given given given"}
    assert "Cost against accuracy" not in words
    assert "Length" in words


def test_without_a_script_every_question_is_there_and_no_bar(html: str) -> None:
    assert '<div id="filters" class="card" hidden>' in html
    assert html.count("hidden") - SCRIPT.count("hidden") - html.count("#filters[hidden]") == (
        html.count(' aria-hidden="true"') + 2 + html.count("overflow:hidden")
    )
    assert not re.search(r"<details[^>]*hidden", html)


def test_choices_are_those_that_there_are(content: dict[str, Any], html: str) -> None:
    bar = html[html.index('<div id="filters"') : html.index('<div id="questions">')]
    for place, (name, arm) in enumerate(zip(ARMS, map(LABELS.get, ARMS), strict=True)):
        assert arm in bar
        select = bar[bar.index(f'data-arm="{place}"') :].partition("</select>")[0]
        given = {question["answers"][name]["checks"]["right"] for question in content["questions"]}
        assert ('value="right"' in select) == (True in given)
        assert 'value="runs"' not in select
    assert "what was trained on</option>" in bar
    assert "signature</option>" in bar


@pytest.mark.parametrize("left_out", sorted(a_comparison(num_seen=2)))
def test_anything_may_be_missing(left_out: str) -> None:
    content = a_comparison(num_seen=2, num_unseen=1)
    del content[left_out]
    assert_is_self_contained(render(content))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"arms": [{"name": "rag"}], "questions": [{"id": "a"}], "sets": [{"name": "seen"}]},
        {"arms": [{}, {}], "questions": [{"answers": {"rag": {}}}], "dimensions": [{}]},
        {"cost": {"arms": {"rag": {}}}, "latency": {"alone": {}}, "comparisons": [{}]},
        {"recommendations": [{}], "deployment": [{}], "next_iteration": {"changes": [{}]}},
    ],
)
def test_next_to_nothing_is_a_page_too(content: dict[str, Any]) -> None:
    assert_is_self_contained(render(content))


def test_figures_may_be_undefined(content: dict[str, Any]) -> None:
    def undefine(value: Any) -> Any:
        if isinstance(value, Mapping):
            if "num_items" in value and "low" in value:
                return {"value": None, "low": None, "high": None, "num_items": 0}
            if "effect_size" in value:
                value = {
                    **value, "effect_size": None, "detectable_difference": None,
                    "p_value": None, "adjusted_p": None,
                }  # fmt: skip
            return {name: undefine(each) for name, each in value.items()}
        return [undefine(each) for each in value] if isinstance(value, list) else value

    words = assert_is_self_contained(render(undefine(content))).text
    assert "How right the answers are could not be measured." in words
    assert "\u2013" in words
    assert not re.search(r"\b(None|nan|inf)\b", words.replace("mask=None", ""))


def test_what_cannot_be_seen_is_written_out_wherever_it_stands(tmp_path: Path) -> None:
    hidden = " \ud800 \u202e \u200b \x1b \x00"
    path = write_comparison_report(tmp_path, a_comparison(words=hidden, num_seen=3))
    words = path.read_text(encoding="utf-8")
    assert not any(letter in words for letter in hidden.replace(" ", ""))
    assert r"Fine-tuned \ud800 \u202e \u200b \x1b \x00" in words


def test_long_texts_are_cut_and_it_is_said(content: dict[str, Any]) -> None:
    long = copy.deepcopy(content)
    given = long["questions"][0]["answers"]["rag"]
    given["text"] = "a" * 12_000 + "b" * 345
    given["sources"][0]["text"] = "c" * 1_500 + "d" * 67
    words = Outline(render(long)).text
    assert "a" * 12_000 + "and 345 letters more, in answers.jsonl" in words
    assert "c" * 1_500 + "and 67 letters more, in answers.jsonl" in words


def test_a_hundred_questions_of_four_arms_stay_small(tmp_path: Path) -> None:
    content = a_comparison(num_seen=100, num_unseen=24)
    for question in content["questions"]:
        for name, given in question["answers"].items():
            given["text"] += " word" * 100
            for number, source in enumerate(given["sources"] * 2):
                # Five passages for each arm, each as long as the tokens that a prompt has for it.
                source |= {"id": f"{number}{name}", "text": f"{number}{name}" + " passage" * 130}
    path = write_comparison_report(tmp_path, content)
    assert path.stat().st_size < 3_000_000


def test_is_written_whole_or_not_at_all(
    tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_comparison_report(tmp_path, content)
    assert path == tmp_path / "report" / "index.html"
    assert [each.name for each in path.parent.iterdir()] == ["index.html"]
    first = path.read_bytes()

    def half(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        write_comparison_report(tmp_path, {})
    assert path.read_bytes() == first


def test_making_it_again_gives_the_same_page(content: dict[str, Any], html: str) -> None:
    before = copy.deepcopy(content)
    assert render(content) == html
    assert content == before
