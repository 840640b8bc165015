"""The looks of the report, by day, by night, on a telephone and on paper.

One string, set into the page itself, which fetches nothing; it knows class names and no arm.
"""

from __future__ import annotations

N_COLOURS = 6  # of the palette: the classes c1 to c6
MOMENTS = 9  # of a nucleus that grows, at most: buttons of a stepper

_CHOSEN = ",".join(
    f".stepper input:nth-of-type({k}):checked~.maps figure:nth-of-type({k})"
    for k in range(1, MOMENTS + 1)
)

# Colours after Okabe & Ito, which stay apart for colour-blind readers.
STYLE_SHEET = (
    """
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1f24;--soft:#5b6570;--rule:#dfe3e8;
--c1:#0072b2;--c2:#d55e00;--c3:#009e73;--c4:#b85c8e;--c5:#c98500;--c6:#3d9bd1;--region:#f6e9a6;
--good:#00714f;--bad:#b04a00}
@media(prefers-color-scheme:dark){:root{--paper:#15191e;--ink:#e8ebee;--soft:#9aa5b1;--rule:#303841;
--c1:#4aa8e0;--c2:#ff8a3d;--c3:#2cc79a;--c4:#e29cc5;--c5:#f0b840;--c6:#8fd0f5;--region:#4d4620;
--good:#43d6a5;--bad:#ff9a5a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,"Segoe UI",
"Helvetica Neue",Arial,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
main{max-width:1120px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:1.15rem;font-weight:600;color:var(--soft);margin:0 0 10px}
h2{font-size:1.2rem;margin:44px 0 12px}h3{font-size:1rem;margin:22px 0 4px}
.headline{font-size:1.55rem;line-height:1.35;font-weight:600;margin:0 0 14px}
header p:not(.headline),.caption,.order{color:var(--soft);font-size:.9rem;margin:.5em 0}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:13px;fill:var(--ink)}svg .mid{text-anchor:middle}svg .end{text-anchor:end}
svg .row{font-weight:600}
.defs{position:absolute;width:0;height:0}.narrow{display:none}
.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
.c6{--c:var(--c6)}.ref{--c:var(--soft)}.target-text{--c:var(--ink)}
.grid{stroke:var(--rule)}.axis{stroke:var(--soft);fill:none}
.goal{stroke:var(--soft);stroke-dasharray:2 4}
.band{fill:var(--c);fill-opacity:.15}.line{fill:none;stroke:var(--c);stroke-width:2.2;
stroke-linejoin:round}.line.again,.line.target-text{stroke-dasharray:7 4}.leader{stroke:var(--c);
stroke-opacity:.6}.dot,.seed{fill:var(--c)}.seed{stroke:var(--paper);stroke-width:1}
.bar{stroke:var(--c);stroke-width:9;stroke-opacity:.28}.tick{stroke:var(--ink);stroke-width:2}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr));gap:28px}
.pair svg{max-width:520px}
.stepper{display:flex;flex-wrap:wrap;max-width:560px}
.stepper input{flex:1;height:1.3em;margin:2px 0;accent-color:var(--soft)}
.stepper .maps{order:-1;flex:1 0 100%}.stepper figure{display:none}
details{margin:14px 0}summary{cursor:pointer;font-weight:600;margin-bottom:6px}
figure{margin:0}figcaption{font-size:.8rem;color:var(--soft)}
.maps svg{border:1px solid var(--rule);border-radius:6px}
.dots{fill:none;stroke-linecap:round}.other{stroke:var(--soft);stroke-opacity:.45}
.edge{fill:none;stroke:var(--soft);stroke-width:.5}
.core{stroke:var(--ink);stroke-linecap:square}.grown{stroke:var(--c)}.old{stroke-opacity:.5;fill-opacity:.5}
.region{stroke:var(--region)}.rim{stroke:var(--paper)}
.cell.worse{fill:var(--c2)}.cell.better{fill:var(--c3)}.cell.unseen{fill:var(--rule)}
.cell.own{stroke:var(--ink);stroke-width:1.2}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;font-size:.85rem;margin:0}
.legend span{display:flex;align-items:center;gap:6px}.key{width:16px;flex:none}
.swatch{display:inline-block;width:.75em;height:.75em;border-radius:50%;background:var(--c);
margin-right:.5em}
td small{white-space:pre}.scores b,.scores td span{white-space:nowrap}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:8px 12px 8px 0;border-bottom:1px solid var(--rule)}
thead th{font-weight:500;color:var(--soft);font-size:.82rem;vertical-align:bottom}
.scores tbody th{min-width:8em;max-width:13em;position:relative;padding-left:1.3em}
.scores tbody .swatch{position:absolute;left:0;top:1.05em}
.scores td{overflow-wrap:normal}td small,th small{display:block;color:var(--soft);font-weight:400}
.scroll{overflow-x:auto}.word{font-weight:600;color:var(--soft)}
.word.better{color:var(--good)}.word.worse{color:var(--bad)}
dl{display:grid;grid-template-columns:minmax(9em,auto) 1fr;gap:4px 20px;margin:0;font-size:.92rem}
dt{color:var(--soft)}dd{margin:0}code{font:.9em ui-monospace,Menlo,Consolas,monospace}
@media(max-width:860px){td small{white-space:pre-line}
main{padding:18px 14px 40px}.headline{font-size:1.25rem}
.wide{display:none}.narrow{display:block}dl{display:block}dd{margin:0 0 8px}
.scores thead{display:none}.scores tr{display:block;padding:10px 0;border-bottom:1px solid
var(--rule)}.scores th,.scores td{display:block;max-width:none;border:0;padding:2px 0}
.scores td{display:grid;grid-template-columns:44% 1fr;column-gap:12px}
.scores tbody th{padding-left:1.3em}
.scores tbody .swatch{top:.55em}
.scores td::before{content:
attr(data-label);color:var(--soft);grid-row:1/3}.scores td small{grid-column:2}}
@media print{section,details,.stepper{break-inside:avoid}.stepper{max-width:none}
.stepper input{display:none}.stepper .maps{display:grid;grid-template-columns:repeat(5,1fr);
gap:10px}.stepper .maps figure{display:block}}
@media screen{"""
    + _CHOSEN
    + "{display:block}}\n"
)
