"""The colours, style sheet and script of every page that segweave writes; nothing in them is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "page": "#f3f5f8",
    "panel": "#ffffff",
    "raised": "#eef2f6",
    "ink": "#17212b",
    "soft": "#4b5866",
    "line": "#d5dce4",
    "edge": "#75828f",
    "accent": "#1b59b3",
    "on-accent": "#ffffff",
    "heat": "#6f9bd8",
    "conflict": "#e08a45",
    "good": "#156b38",
    "bad": "#b3261e",
    "series1": "#1b59b3",
    "series2": "#b4500c",
    "series3": "#1b7a43",
    "series4": "#a3268f",
    "series5": "#6a4bc4",
    "series6": "#0c7480",
    "series7": "#8a6100",
    "series8": "#c02a45",
}
"""Colour by role on a bright page; text has at least 4.5 : 1 against what is behind it, lines and edges 3 : 1."""
DARK: Mapping[str, str] = {
    "page": "#0f141a",
    "panel": "#182029",
    "raised": "#222c37",
    "ink": "#e9eef3",
    "soft": "#abb7c3",
    "line": "#33404d",
    "edge": "#76869a",
    "accent": "#86b6ff",
    "on-accent": "#0f141a",
    "heat": "#2c65b8",
    "conflict": "#a34c0c",
    "good": "#74d394",
    "bad": "#ff958b",
    "series1": "#86b6ff",
    "series2": "#ffab70",
    "series3": "#74d394",
    "series4": "#f08fe0",
    "series5": "#b9a3ff",
    "series6": "#5fd3de",
    "series7": "#e6c15c",
    "series8": "#ff8fa1",
}
"""The same roles on a dark page."""
SERIES = 8
"""Line colours there are; charts with more lines repeat them, dashed."""


def _variables(colours: Mapping[str, str], important: str = "") -> str:
    return "".join(f"--{name}:{value}{important};" for name, value in colours.items())


_RULES = """
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:1rem;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans","Noto Sans CJK SC","Liberation Sans",sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:break-word}
header,main,footer{max-width:76rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:1.75rem}
.top{display:flex;gap:1rem;align-items:flex-start;justify-content:space-between}
.top>div{min-width:0}h1{overflow-wrap:anywhere}
h1{font-size:clamp(1.5rem,1.2rem + 1.6vw,2.2rem);line-height:1.15;margin:0 0 .35rem;letter-spacing:-.015em}
h2{font-size:1.3rem;line-height:1.25;margin:0 0 .6rem;letter-spacing:-.01em}
h3{font-size:1.02rem;margin:1.4rem 0 .5rem}
h2+h3{margin-top:.6rem}
p{margin:.4rem 0 .8rem;max-width:72ch}
.lead,.soft{color:var(--soft)}
.lead{margin:0 0 .6rem}
a{color:var(--accent)}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:.9rem 0 0;padding:.6rem 0;
border-top:1px solid var(--line);font-size:.94rem}
section{background:var(--panel);border:1px solid var(--line);border-radius:14px;padding:1.25rem 1.4rem;margin:1.1rem 0}
footer{color:var(--soft);font-size:.9rem;padding-top:.4rem;padding-bottom:2.2rem}
.skip{position:absolute;left:-99rem;background:var(--accent);color:var(--on-accent);padding:.5rem .9rem;z-index:9}
.skip:focus{left:.5rem;top:.5rem}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px;border-radius:4px}
button,.switch label{font:inherit;font-size:.92rem;color:var(--ink);background:var(--raised);
border:1px solid var(--edge);border-radius:8px;padding:.32rem .75rem;cursor:pointer}
button{white-space:nowrap;flex:none}
button:hover,.switch label:hover{border-color:var(--accent)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(15rem,100%),1fr));gap:1rem;margin:0;padding:0;
list-style:none}
.card{background:var(--raised);border-radius:12px;padding:1rem 1.1rem;min-width:0}
.card h3{margin:0;font-size:1rem}
.card p.big{color:var(--ink);font-size:2.1rem;font-weight:650;line-height:1.2;letter-spacing:-.02em;margin:.15rem 0 0}
.card .big small{font-size:.95rem;font-weight:500;letter-spacing:0;color:var(--soft)}
.card p{margin:.1rem 0 0;font-size:.92rem;color:var(--soft)}
.card p.verdict{color:var(--ink);margin-top:.35rem}
.scroll{overflow-x:auto;max-width:100%;margin:.5rem 0 1rem}
table{border-collapse:collapse;font-size:.93rem;min-width:min(100%,20rem)}
.caption{color:var(--soft);font-size:.93rem;margin:.9rem 0 0}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(31rem,100%),1fr));gap:0 2rem;align-items:start}
.trio{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(19.5rem,100%),1fr));gap:0 1.4rem;align-items:start}
th,td{padding:.34rem .7rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:baseline}
td{white-space:pre-wrap}
thead th{color:var(--soft);font-weight:600;border-bottom:1px solid var(--edge);vertical-align:bottom}
tbody th{font-weight:500}
td.number,th.number{text-align:right;white-space:nowrap}
.variant{display:block;min-width:6.5rem}.variant.wide{min-width:18rem}td code{white-space:nowrap}
.tight .bar i{width:clamp(2.5rem,5vw,3.6rem)}.tight th.number{white-space:normal}
td small,tbody th small{display:block;color:var(--soft);font-size:.86em;font-weight:400}
tr.group th{padding-top:.9rem;font-weight:650}
.bar{display:inline-flex;align-items:center;gap:.6rem;white-space:nowrap}
.bar i{display:inline-block;width:clamp(4rem,16vw,11rem);height:.62rem;border-radius:3px;background:var(--line);
overflow:hidden}
.bar i::before{content:"";display:block;height:100%;width:var(--share);background:var(--series1);border-radius:3px}
.bar.second i::before{background:var(--series2)}
.gains{list-style:none;margin:.35rem 0;padding:0}.gains li{display:flex;justify-content:space-between;gap:.8rem}
.gains span:first-child{min-width:0;overflow-wrap:anywhere}.gains b{white-space:nowrap}
.dot{display:inline-block;width:.7rem;height:.7rem;border-radius:50%;margin-right:.5rem}
.good{color:var(--good)}.bad{color:var(--bad)}
.note{border-left:4px solid var(--series2);background:var(--raised);padding:.55rem .9rem;border-radius:0 8px 8px 0;
max-width:none}
ul.note{padding-left:2rem}
dl.facts{display:grid;grid-template-columns:minmax(9rem,auto) 1fr;gap:.3rem 1.2rem;margin:.4rem 0 1rem}
dl.facts dt{color:var(--soft)}dl.facts dd{margin:0;min-width:0;overflow-wrap:anywhere}
pre,code{font:.87rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
code{background:var(--raised);border-radius:5px;padding:.08rem .34rem;overflow-wrap:anywhere}
pre{background:var(--raised);border-radius:10px;padding:.9rem 1.1rem;overflow-x:auto;margin:.5rem 0 1rem;tab-size:2}
pre code{background:none;padding:0;overflow-wrap:normal}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--accent);width:fit-content}
figure{margin:0;min-width:0}figcaption{font-size:.9rem;color:var(--soft)}
img{max-width:100%;height:auto;display:block}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(19.5rem,100%),1fr));gap:1.1rem 1.4rem;
margin:.4rem 0 1rem}
.chart figcaption{display:flex;justify-content:space-between;gap:.8rem;color:var(--ink);align-items:baseline}
.chart figcaption b{font-weight:600;min-width:0;overflow-wrap:anywhere}
.chart figcaption span{color:var(--soft);white-space:nowrap}
.chart svg{width:100%;height:auto;display:block;overflow:visible}
.chart text{fill:var(--soft);font-size:11px;font-family:inherit}
.chart .grid{stroke:var(--line);stroke-width:1;fill:none}.chart .axis{stroke:var(--edge);stroke-width:1}
.chart path{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.chart path.raw{stroke-width:1;opacity:.38}
.chart.pareto,.chart.tree{max-width:31rem}.tree .branch{stroke:var(--ink);stroke-width:1.5}
.tree .name{fill:var(--ink)}.pareto .front{stroke:var(--edge);stroke-dasharray:4 4}
.pareto path.interval,.pareto path.lead-line,.pareto path.front{stroke-width:1.2}
.pareto path.lead-line{stroke:var(--edge);stroke-width:.8}.pareto circle{stroke-width:1.8}
.pareto .name{fill:var(--ink);paint-order:stroke;stroke:var(--panel);stroke-width:3px;stroke-linejoin:round}
.pareto .axis-name{margin:0 0 .4rem;text-align:right;color:var(--soft);font-size:.9rem}
.key{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.05rem;margin:.35rem 0;padding:0;font-size:.9rem;
color:var(--soft)}
.key li{display:inline-flex;align-items:center;gap:.4rem}
.key i{width:.85rem;height:.85rem;border-radius:3px;border:1px solid var(--edge);flex:none}
.key i.line{height:3px;border:0;border-radius:2px;width:1.15rem}
.key i.dashed{mask:repeating-linear-gradient(90deg,black 0 .45rem,transparent .45rem .7rem)}
.ramp{max-width:36rem;display:grid;grid-template-columns:1fr 1fr 1fr;font-size:.8rem;color:var(--soft);
margin-top:.25rem}
.ramp i{grid-column:1/-1;height:.5rem;border-radius:3px;border:1px solid var(--edge)}
.ramp span:nth-of-type(2){text-align:center}.ramp span:nth-of-type(3){text-align:right}
.matrix table{min-width:0;font-size:.8rem}
.matrix td{background:color-mix(in srgb,var(--heat) var(--p,0%),var(--panel))}
.matrix td,.matrix thead th{padding:.2rem .28rem;text-align:center;border:1px solid var(--panel);min-width:1.9rem}
.matrix thead tr:last-child th{vertical-align:bottom}
.matrix tbody th{text-align:right;padding:.2rem .5rem;white-space:nowrap;border:0}
.matrix .up span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:11rem;display:inline-block;
font-weight:500}
.matrix.small table{font-size:.68rem}.matrix.small td,.matrix.small thead th{min-width:1.1rem;padding:.08rem .1rem}
.matrix .opposed{--heat:var(--conflict)}
.matrix td.own{background:var(--raised)}
.maps{display:flex;flex-wrap:wrap;gap:0 3rem;align-items:flex-start}.maps>div{min-width:0;max-width:100%}
.agreement tbody th{position:sticky;left:0;background:var(--panel);max-width:9.5rem;overflow:hidden;
text-overflow:ellipsis}
.agreement td{white-space:nowrap;min-width:2.7rem;padding:.32rem .3rem}
.matrix img{width:min(100%,34rem);image-rendering:pixelated;border:1px solid var(--edge)}
.switches{display:flex;flex-wrap:wrap;gap:.6rem 1.6rem;position:sticky;top:0;z-index:2;background:var(--panel);
padding:.6rem 0;border-bottom:1px solid var(--line)}
.switch{border:0;padding:0;margin:0;min-width:0;display:flex;flex-wrap:wrap;gap:.35rem;align-items:center}
.switch legend{float:left;padding:0 .4rem 0 0;color:var(--soft);font-size:.92rem}
.switch input{position:absolute;opacity:0;pointer-events:none}
.switch input:checked+label{background:var(--accent);border-color:var(--accent);color:var(--on-accent)}
.switch input:focus-visible+label{outline:3px solid var(--accent);outline-offset:2px}
.swatches{margin:.5rem 0 0}
.examples{display:grid;gap:1.1rem;margin:.5rem 0 1rem}
.example>figcaption{margin:0 0 .35rem;color:var(--ink)}
.example>figcaption .soft{margin-left:.5rem}
.layers{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:.6rem}
.against{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,3fr);gap:.6rem}
.across{display:grid;grid-auto-flow:column;grid-auto-columns:minmax(0,1fr);gap:.6rem;margin-bottom:.6rem}
.against .head{display:block;font-weight:600;font-size:.9rem}.against .across:first-child{margin:0}
.layer figcaption{font-size:.85rem;margin-top:.2rem}
.layer img{width:100%;border-radius:6px;background:var(--raised)}
.layer .none{display:grid;place-items:center;min-height:5rem;border:1px dashed var(--edge);border-radius:6px;
color:var(--soft);font-size:.88rem;padding:.5rem;text-align:center}
.said{list-style:none;margin:.35rem 0 0;padding:0;font-size:.92rem}
.hide{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
@media (max-width:44rem){
header,main,footer{padding-left:.8rem;padding-right:.8rem}
section{padding:1rem .85rem;border-radius:12px}
.layers{grid-template-columns:repeat(2,minmax(0,1fr))}
.against{grid-template-columns:minmax(0,1fr)}.against>:first-child{max-width:60%}.across{gap:.4rem}
dl.facts{grid-template-columns:1fr;gap:0}dl.facts dd{margin-bottom:.5rem}
th,td{padding:.32rem .45rem}
.switches{gap:.4rem 1rem}.switch label,button{padding:.36rem .6rem}
}
@media (prefers-reduced-motion:no-preference){.layer img{transition:opacity .12s}}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
@media print{
@page{margin:14mm 12mm}
html{font-size:10.5pt}body{font-size:10pt;background:none}
header,main,footer{max-width:none;padding:0}
nav,.skip,button,.switches{display:none!important}
section{border:0;border-top:1px solid var(--line);border-radius:0;padding:.6rem 0;margin:.4rem 0}
.scroll,pre{overflow:visible}pre{white-space:pre-wrap;overflow-wrap:anywhere}
figure,.card,.example,.captioned,tr,.key{break-inside:avoid}h2,h3,.caption,thead{break-after:avoid}
.layers{grid-template-columns:repeat(4,minmax(0,1fr))!important}.layer{display:block!important}
.layer[data-layer=image]{grid-column:1}.layer[data-layer=truth]{grid-column:2}
.cards{grid-template-columns:repeat(3,1fr)}.charts{grid-template-columns:repeat(3,1fr)}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""

SHEET = (
    f":root{{color-scheme:light;{_variables(LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{_variables(DARK)}}}}}"
    f":root[data-theme=dark]{{color-scheme:dark;{_variables(DARK)}}}"
    f"@media print{{:root{{color-scheme:light!important;{_variables(LIGHT, '!important')}}}}}{_RULES}"
)
"""All of the style: light or dark as the reader's system asks or the page's button says, for screens, phones, paper."""

SCRIPT = """
(() => {
  const root = document.documentElement, button = document.getElementById("theme");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();
  button.hidden = false;
  // a click on a picture shows its layer alone, and then the next one in its place
  for (const gallery of document.querySelectorAll(".gallery")) gallery.addEventListener("click", (event) => {
    if (event.target.tagName !== "IMG") return;
    const choices = [...gallery.querySelectorAll("input[name=layer]")];
    const now = choices.findIndex((choice) => choice.checked);
    if (now < 0) return;
    const clicked = choices.findIndex((choice) => choice.value === event.target.closest(".layer").dataset.layer);
    choices[now === 0 ? clicked : (now % (choices.length - 1)) + 1].checked = true;
    event.target.closest(".example").scrollIntoView({ block: "nearest" });
  });
})();
"""  # noqa: E501
"""The theme's button, and clicks on pictures; without scripts the button stays hidden and the switches still work."""
