"""Rules that only a comparison's page needs, after those of every page (`page`)."""

STYLE = """
body{max-width:1240px}
body{overflow-wrap:break-word}.use>*,figcaption,#filters *,.chip,.question h4,h1,nav a{min-width:0;
overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:2px 18px;margin:18px 0 0;font-size:.9rem}
a{color:var(--series-0)}a .muted{color:inherit}
.dot{display:inline-block;width:10px;height:10px;border-radius:50%;background:var(--c);
margin-right:6px;flex:none}
.small{font-size:.82rem}
.verdict-words{font-size:1.08rem;max-width:60em}
.uses{display:grid;margin:1rem 0}
.use{display:grid;grid-template-columns:minmax(150px,20%) minmax(150px,18%) 92px 1fr;gap:2px 16px;
padding:8px 0;border-bottom:1px solid var(--rule);font-size:.93rem;break-inside:avoid}
.use.head{color:var(--muted);font-size:.86rem}.use details{margin-top:2px}
.use summary{font-weight:400;color:var(--muted);font-size:.86rem}
.use ul{margin:.2rem 0;padding-left:1.1rem;font-size:.88rem}
.strength{font-weight:600}.strength.weak,.strength.none{color:var(--muted)}
.figures td small,.figures th small,.tests td small{display:block;color:var(--muted);
font-weight:400;font-size:.82rem;white-space:normal}
.figures th small{max-width:26em}.figures td small,.tests td small{white-space:nowrap}
.figures th{color:var(--ink)}td.lead b::after{content:" ●";color:var(--good);font-size:.7em;
vertical-align:middle}
.tests td.verdict{font-weight:600}.tests td.verdict.muted{font-weight:400}
.tests td.verdict{white-space:normal;min-width:9em}
.tests tr.group th{color:var(--ink);font-weight:600;padding-top:14px}
svg text.name{fill:var(--c);font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:3px}
.chart svg.strokes{width:100%;height:100%;overflow:visible}
.strokes path{stroke:var(--c);stroke-width:1;vector-effect:non-scaling-stroke;opacity:.22}
svg.track rect.box{fill:var(--card);fill-opacity:.75;stroke:var(--c);stroke-width:1.5}
.median{stroke:var(--c);stroke-width:3}
#filters{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,170px),1fr));
gap:8px 12px;scroll-margin-top:8px}
#filters[hidden]{display:none}
#filters label{display:grid;min-width:0;align-content:end;font-size:.8rem;color:var(--muted)}
#filters .long{grid-column:span 2}#filters .state{grid-column:1/-1;display:flex;flex-wrap:wrap;
gap:6px 14px;align-items:center;font-size:.88rem}
input,select,button{font:inherit;color:var(--ink);background:var(--paper);
border:1px solid var(--rule);border-radius:6px;padding:4px 8px;min-width:0;max-width:100%}
button{cursor:pointer}
button.pick{all:unset}
.scripted button.pick{cursor:pointer;color:var(--series-0);text-decoration:underline}
.scripted button.pick:focus-visible{outline:2px solid var(--series-0)}
.question{margin:0;border-bottom:1px solid var(--rule)}
.question>summary{padding:7px 0;font-weight:500;list-style-position:outside;margin-left:1.1em}
.question>summary .said{display:block;overflow-wrap:anywhere}
.chips{display:grid;grid-template-columns:repeat(auto-fit,minmax(220px,1fr));gap:0 16px;
font-size:.82rem;font-weight:400}
.chip span{color:var(--muted)}
.question .card{margin:4px 0 14px;scroll-margin-top:60px}
.question .answers{grid-template-columns:repeat(auto-fit,minmax(min(100%,230px),1fr))}
.question .card summary{font-size:.88rem}.question details{margin-top:8px}
.question h4{display:flex;align-items:center;margin:0 0 4px;font-size:.86rem}
.reference h4{color:var(--muted)}
.facts{font-size:.82rem;line-height:1.7}.facts span{color:var(--muted)}
.grid-2{align-items:start}
.facts code{display:inline-block;max-width:100%;font:12px/1.4 ui-monospace,Menlo,Consolas,
monospace;border:1px solid var(--rule);border-radius:4px;padding:0 4px;margin-right:3px;
overflow-wrap:anywhere}
ul.checks{list-style:none;margin:.3rem 0;padding:0;font-size:.82rem;overflow-wrap:anywhere}
.passage{margin:0 0 12px}.passage p{margin:0 0 2px}.shown-to span{margin-right:14px}
.shown-to span .dot{margin-right:4px}
.change{margin-bottom:10px}.change code,.deploy code{font:13px/1.45 ui-monospace,Menlo,Consolas,
monospace;overflow-wrap:anywhere}
.links{font-size:.86rem;overflow-wrap:anywhere}
@media(max-width:560px){.use{grid-template-columns:1fr auto;gap:0 10px}.use.head{display:none}
.use>:nth-child(1){font-weight:600}.use>:nth-child(2){grid-row:2;grid-column:1}
.use>:nth-child(3){grid-row:1;grid-column:2}.use>:nth-child(4){grid-column:1/-1}
/* Arms keep their columns under the figure's name; a test becomes a card with named parts. */
.figures tr,.tests tr{display:grid;gap:0 8px;padding:6px 0;border-bottom:1px solid var(--rule)}
.figures tr{grid-template-columns:repeat(var(--arms),minmax(0,1fr))}
.tests tr{grid-template-columns:repeat(3,minmax(0,1fr))}.tests thead{display:none}
.wide.figures :is(th,td),.wide.tests :is(th,td){border:0;padding:2px 0;white-space:normal}
.figures tr>:first-child,.tests th{grid-column:1/-1}
.figures td small,.tests td small{white-space:normal}.tests td{min-width:0}
.tests td::before{content:attr(data-name);display:block;color:var(--muted);font-size:.78rem;
font-weight:400}
.figures :is(th,td){font-size:.86rem}.figures td small{font-size:.74rem}
#filters{grid-template-columns:repeat(2,minmax(0,1fr))}
.chips{display:flex;flex-wrap:wrap;gap:0 12px}}
@media print{body{max-width:none;padding:0}#filters,nav{display:none}
tr.group{break-after:avoid}.chips{display:flex;flex-wrap:wrap}
.question>summary{break-inside:avoid;padding:3px 0}.dot,.strokes path{
-webkit-print-color-adjust:exact;print-color-adjust:exact}
.figures td small,.tests td small{white-space:normal}}
"""
