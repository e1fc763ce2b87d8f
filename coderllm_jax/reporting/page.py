"""The frame of every report: one HTML file that needs nothing else, on a desk or on a phone.

    page(title, parts)  ──►  <!doctype html> … style, header, parts, no script, no address

Whatever is shown goes through `text`: rows, answers and paths are other people's words, and
markup in them stays words. A content policy in the page forbids everything that could load, and
every script; a page that needs one hands it in, and that one is allowed, by its digest.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
# Controls, formats such as marks of direction, and halves of surrogate pairs.
_UNSEEN = frozenset({"Cc", "Cf", "Cs"})
SERIES_COLORS = tuple(f"series-{i}" for i in range(6))
_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--card:#f6f7f9;--ink:#1b1f24;--muted:#5b6472;
--rule:#d8dde4;--series-0:#0b62b8;--series-1:#c2410c;--series-2:#15803d;--series-3:#7c3aed;
--series-4:#b45309;--series-5:#64748b;--good:#15803d;--bad:#b91c1c}
@media screen and (prefers-color-scheme:dark){:root{--paper:#12151a;--card:#1b2027;--ink:#e6e9ee;
--muted:#9aa5b4;--rule:#343c47;--series-0:#60a5fa;--series-1:#fb923c;--series-2:#4ade80;
--series-3:#c4b5fd;--series-4:#fbbf24;--series-5:#94a3b8;--good:#4ade80;--bad:#f87171}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:24px 20px 64px;background:var(--paper);
color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .8rem}h3{font-size:1rem;margin:0}
p{margin:.4rem 0}.muted{color:var(--muted)}.good{color:var(--good)}.bad{color:var(--bad)}
.grid-2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;
margin:1.2rem 0}
.tile,.card,.chart{background:var(--card);border:1px solid var(--rule);border-radius:10px}
.tile{padding:12px 14px}.tile b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}
.tile small{color:var(--muted);display:block;line-height:1.35}
.card{padding:14px 16px;margin:0 0 14px}.chart{margin:0;padding:10px 12px 4px}
.chart svg:not(.key){width:100%;height:auto;display:block}
figcaption{font-weight:600;font-size:.95rem;display:flex;flex-wrap:wrap;gap:2px 14px;
justify-content:space-between}
.legend{font-weight:400;font-size:.82rem;color:var(--muted);display:flex;flex-wrap:wrap;gap:0 12px}
.key{width:20px;height:8px;margin-right:5px;vertical-align:middle}
svg text{fill:var(--muted);font-size:12px;font-variant-numeric:tabular-nums}
.grid{stroke:var(--rule);stroke-width:1}.axis{stroke:var(--muted);stroke-width:1}
.line,.faint,.dashed{stroke:var(--c);fill:none;stroke-width:2;stroke-linejoin:round}
.faint{stroke-width:1.4;opacity:.7}.dashed{stroke-dasharray:5 4;stroke-width:1.6}
circle{fill:var(--c)}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--rule);vertical-align:top}
th{font-weight:500;color:var(--muted)}td{font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,260px),1fr));gap:12px;
margin-top:10px}
.answers h4{margin:0 0 4px;font-size:.82rem;color:var(--muted);font-weight:600}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,Menlo,
Consolas,monospace;background:var(--paper);border:1px solid var(--rule);border-radius:6px;
padding:8px 10px;max-height:340px;overflow-y:auto}
.bar{display:flex;height:22px;border-radius:6px;overflow:hidden;margin:8px 0}
.bar i{display:block;min-width:1px;background:var(--c)}
.shares{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:.88rem}
.shares i{display:inline-block;width:11px;height:11px;border-radius:3px;background:var(--c);
margin-right:6px}
.rows .group{font-weight:600;font-size:.86rem;margin-top:8px}
.row{display:grid;grid-template-columns:minmax(64px,23%) 1fr minmax(72px,34%);gap:0 14px;
align-items:center;min-height:24px;font-size:.86rem;line-height:1.3}.row.tall{min-height:46px}
.row .name{overflow-wrap:anywhere}
.row .words{font-variant-numeric:tabular-nums}.words b{margin-right:4px}
.words b,.words small{white-space:nowrap}.words small{color:var(--muted);margin-right:4px}
/* As tall as its row, which a name of two lines may make taller: gridlines stay whole. */
.chart svg.track{width:100%;height:0;min-height:100%;overflow:visible}
svg.track text{font-size:11px}.track rect{fill:var(--c)}.whisker{stroke:var(--c);stroke-width:2}
.rows .legend i{display:inline-block;width:11px;height:11px;border-radius:3px;background:var(--c);
margin-right:5px}
.wide{overflow-x:auto;margin:14px 0}.wide td,.wide th{white-space:nowrap;padding-right:16px}
.wide.texts td{white-space:normal;min-width:7rem}
section>table th{white-space:nowrap}
section>h3{margin:1.4rem 0 .6rem}section>.chart{margin-bottom:16px}
ul.findings{list-style:none;display:grid;gap:.45rem}
ul.notes{margin:.4rem 0 1rem;padding-left:1.2rem}
ul.advice{list-style:none;padding:0;margin:0;display:grid;gap:10px}.advice .card{margin:0}
details{margin-top:14px}summary{cursor:pointer;font-weight:600}
details[open]>summary{margin-bottom:8px}
footer{margin-top:3rem;color:var(--muted);font-size:.85rem}
@media(max-width:560px){body{padding:16px 12px 48px}svg text{font-size:17px}
.tile b{font-size:1.15rem}.tiles{grid-template-columns:repeat(2,1fr)}
.row{grid-template:auto 22px/1fr auto}.row.tall{grid-template:auto 44px/1fr auto}
.row .name{order:0}.row .words{order:1;text-align:right}
.row .track{order:2;grid-column:1/-1}}
@media print{:root{color-scheme:light}
.card,.chart,.tile,tr{break-inside:avoid}h2,h3{break-after:avoid}pre{max-height:none}
.wide{overflow:visible}.wide td,.wide th{white-space:normal;padding-right:8px;font-size:.8rem}
.bar i,.shares i,.legend i{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""


def page(
    title: str, parts: Iterable[str], *, refresh_s: int = 0, style: str = "", script: str = ""
) -> str:
    """The whole file. `refresh_s`: the browser reloads it so often, for runs that go on.

    style: rules of this page alone. script: its one script, which runs when everything is there;
    the policy names its digest, so that any other one, an event handler too, stays dead.
    """
    again = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"{again}<title>{text(title)}</title><style>{_STYLE}{style}</style></head><body>"
        f"{''.join(parts)}{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def _policy(script: str) -> str:
    """Nothing but what stands in the file; of scripts, this one or none (CSP 3, section 6.7)."""
    if not script:
        return _POLICY
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"{_POLICY}; script-src 'sha256-{digest}'"


def text(value: Any) -> str:
    """Any value as words in HTML, in an element or in a quoted attribute."""
    return html.escape(str(value), quote=True)


def visible(words: str) -> str:
    r"""Words in which letters that cannot be seen are written out: `\x1b`, `\u202e`, `\ud800`.

    For answers that are to be read as they are: what turns lines around or hides in them is shown.
    """
    return "".join(
        letter.encode("unicode_escape").decode()
        if letter not in "\n\t" and unicodedata.category(letter) in _UNSEEN
        else letter
        for letter in words
    )


def section(title: str, *parts: str) -> str:
    """A heading and what belongs to it; "" where nothing does."""
    body = "".join(parts)
    return f"<section><h2>{text(title)}</h2>{body}</section>" if body else ""


def tiles(figures: Sequence[tuple[str, str, str]]) -> str:
    """Large figures: (name, value, a few words under it)."""
    return "".join(
        [
            '<div class="tiles">',
            *(
                f'<div class="tile"><small>{text(name)}</small><b>{text(value)}</b>'
                f"<small>{text(under)}</small></div>"
                for name, value, under in figures
            ),
            "</div>",
        ]
    )


def table(rows: Iterable[tuple[Any, Any]]) -> str:
    """Two columns: names and values."""
    return (
        "<table>"
        + "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in rows)
        + "</table>"
    )


def grid_table(
    head: Sequence[Any], rows: Iterable[Sequence[Any]], *, has_texts: bool = False
) -> str:
    """Columns under a head; it scrolls by itself where the page is narrower. "" without rows.

    has_texts: cells are sentences, and wrap.
    """
    body = "".join(
        f"<tr><th>{text(row[0])}</th>{''.join(f'<td>{text(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    if not body:
        return ""
    heads = "".join(f"<th>{text(cell)}</th>" for cell in head)
    kind = "wide texts" if has_texts else "wide"
    return f'<div class="{kind}"><table><tr>{heads}</tr>{body}</table></div>'


def side_by_side(title: str, columns: Iterable[tuple[str, Any]], *, under: str = "") -> str:
    """A card with long texts beside one another: (what it is, its words); `under` is one line."""
    answers = "".join(
        f"<div><h4>{text(name)}</h4>{_as_it_is(str(words))}</div>" for name, words in columns
    )
    line = f'<p class="muted">{text(under)}</p>' if under else ""
    return (
        f'<div class="card"><h3>{text(visible(title))}</h3>{line}'
        f'<div class="answers">{answers}</div></div>'
    )


def _as_it_is(words: str) -> str:
    if words.strip():
        return f"<pre>{text(visible(words))}</pre>"
    what = f"nothing but {len(words):,} blanks" if words else "nothing"
    return f'<p class="muted">{what}</p>'


def notes_list(notes: Iterable[str]) -> str:
    """Sentences as a list; "" where there are none."""
    items = "".join(f"<li>{text(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def shares(
    parts: Sequence[tuple[str, float, str]], *, colors: Sequence[str] = SERIES_COLORS
) -> str:
    """One bar cut into parts: (name, amount, amount in words). Nothing where all are zero.

    A part's colour goes by its place, so that parts of nothing keep the others' colours.
    """
    total = sum(amount for _, amount, _ in parts)
    shown = [
        (color, *part)
        for color, part in zip(itertools.cycle(colors), parts, strict=False)
        if part[1] > 0
    ]
    if not total or not shown:
        return ""
    bar = "".join(
        f'<i style="--c:var(--{color});flex:{amount / total:.4f}"></i>'
        for color, _, amount, _ in shown
    )
    keys = "".join(
        f'<span><i style="--c:var(--{color})"></i>{text(name)} {text(words)} '
        f'<span class="muted">({amount / total:.0%})</span></span>'
        for color, name, amount, words in shown
    )
    return f'<div class="bar" aria-hidden="true">{bar}</div><div class="shares">{keys}</div>'


def unfold(title: str, body: str) -> str:
    """Something long that is shown when asked for."""
    return f"<details><summary>{text(title)}</summary>{body}</details>"
