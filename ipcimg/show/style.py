"""How the report looks: its one style sheet. No part of it comes from an image."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfbfa; --card: #fff; --ink: #1c1f23; --faint: #666d76; --line: #e2e4e7; --track: #e9ebee;
  --accent: #0f6a8b; --warn: #a8470b; --full: #d4762c; --warn-paper: #fdf1e7;
  --hole: #eff1f3; --zeros: #d3d8de;
  --level1: #a9d6e2; --level2: #5db2c9; --level3: #1d86a5; --level4: #0b516b;
  --on2: #06222c; --on3: #fff;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1b1f23; --ink: #e4e7ea; --faint: #949ca6; --line: #2e343a; --track: #2b3137;
    --accent: #6cc3dc; --warn: #f2a267; --full: #e08f4a; --warn-paper: #35261a;
    --hole: #20252a; --zeros: #3b434b;
    --level1: #17475a; --level2: #1f7390; --level3: #41a6c4; --level4: #9be0f0;
    --on2: #fff; --on3: #06222c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 76rem;
  background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
code, pre, .mono, .map th, .content { font-family: ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 3px; }
h1, h2, h3, h4, p, dl, dd, ul, ol { margin: 0; padding: 0; }
h1 { font-size: 1.75rem; line-height: 1.2; font-weight: 650; letter-spacing: -.015em; }
h2 { margin: 3rem 0 .75rem; font-size: 1.2rem; font-weight: 650; letter-spacing: -.005em; }
h2 small, h3 small { white-space: nowrap; margin-left: .5em; color: var(--faint); font-weight: 400; font-size: .85em; }
h3 { font-size: 1rem; font-weight: 650; }
h4, caption { margin: 1.25rem 0 .4rem; color: var(--faint); font-size: .8rem; font-weight: 600; text-align: left; }
dd, td, .where, .problem { overflow: hidden; }  /* whatever letters pile up stays in its place */
.eyebrow, .where { color: var(--faint); font-size: .85rem; }
.where { margin-top: .25rem; }
.subject + .subject { margin-top: 5rem; padding-top: 2.5rem; border-top: 2px solid var(--ink); }

.facts { margin-top: 1.5rem; display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.25rem; }
.facts dt { color: var(--faint); }
.facts dd { grid-column: 2; }
.warns, .problem, .none { color: var(--warn); }
.warns::before, .problem::before { content: "⚠\\FE0E  "; }
.problem { margin: .75rem 0; padding: .5rem .75rem; background: var(--warn-paper); border-radius: 4px; }
.notice { display: none; margin-bottom: 1.5rem; }
body:has(#problems) .notice { display: block; }
.note { margin: .75rem 0; color: var(--faint); font-size: .85rem; }

.tiles { margin-top: 2rem; display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 1rem; }
.tile { padding: 1rem 1.1rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.tile b { display: block; color: var(--ink); font-size: 1.6rem; line-height: 1.2; font-weight: 650; }
.tile p { color: var(--faint); font-size: .85rem; }
.tile ul { margin-top: .6rem; display: flex; flex-wrap: wrap; gap: .2rem .7rem; list-style: none; font-size: .85rem; }

.scroll { overflow-x: auto; overflow-wrap: normal; }
.scroll { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.scroll table { width: 100%; border-collapse: collapse; font-size: .85rem; }
.scroll th, .scroll td { padding: .4rem .75rem; text-align: left; vertical-align: baseline; white-space: nowrap; }
.scroll thead th { color: var(--faint); font-size: .72rem; font-weight: 600; letter-spacing: .04em; }
.scroll thead th { border-bottom: 1px solid var(--line); }
.scroll tbody tr + tr > * { border-top: 1px solid var(--line); }
.scroll tbody tr:target { background: var(--track); }
.scroll .number { text-align: right; }
.scroll .wide { white-space: normal; min-width: 16rem; }
.scroll .content { overflow-wrap: anywhere; width: 100%; min-width: 20rem; white-space: normal; font-size: .8rem; }
td .bar { width: 4.5rem; }
.share { display: inline-block; min-width: 4em; margin-left: .6rem; }

.bar { display: inline-block; height: .5rem; border-radius: 2px; vertical-align: baseline; overflow: hidden; }
.track { fill: var(--track); }
.part { fill: var(--level3); }
.full { fill: var(--full); }
.depth { margin-top: 1rem; }
.depth .bar { display: block; width: 100%; height: .75rem; margin-top: .35rem; }

.object { margin-top: 1rem; padding: 1.1rem 1.25rem 1.25rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; content-visibility: auto; contain-intrinsic-size: auto 30rem; }
.object, h2 { scroll-margin-top: 1rem; }
.object:target { border-color: var(--accent); }
.object .scroll { background: none; }
.told { margin-top: .75rem; display: grid; grid-template-columns: repeat(auto-fill, minmax(11.5rem, 1fr));
  gap: .45rem 1.25rem; font-size: .9rem; }
.told dt { color: var(--faint); font-size: .74rem; line-height: 1.3; }
.told dt::first-letter { text-transform: uppercase; }

.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0 2.5rem; }
.histogram { width: 100%; border-collapse: collapse; font-size: .82rem; align-self: start; }
.histogram th { font-weight: 400; text-align: right; white-space: nowrap; padding: .1rem .6rem .1rem 0; }
.histogram .number { padding: .1rem 0 .1rem .6rem; text-align: right; white-space: nowrap; }
.histogram .drawn { width: 100%; }
.histogram .bar { display: block; width: 100%; margin: 0; }

.map { width: 100%; border-collapse: collapse; }
.map th { color: var(--faint); font-size: .7rem; font-weight: 400; padding: 0 .75rem 0 0; line-height: 1;
  white-space: nowrap; text-align: right; }
.map td { padding: 0; width: 100%; line-height: 0; }
.cells { width: 100%; height: .9rem; }
.cells.few { max-width: 16rem; }
.between { stroke: var(--card); stroke-width: 1px; vector-effect: non-scaling-stroke; }
.map tr + tr td { padding-top: 1px; }
.hole { fill: var(--hole); } .zeros { fill: var(--zeros); }
.level1 { fill: var(--level1); } .level2 { fill: var(--level2); }
.level3 { fill: var(--level3); } .level4 { fill: var(--level4); }
.legend { margin-top: .75rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none;
  color: var(--faint); font-size: .78rem; }
.legend svg { width: .8rem; height: .8rem; margin-right: .4rem; vertical-align: -.1rem; }

.values { margin-top: 1rem; display: flex; flex-wrap: wrap; gap: 3px; list-style: none; }
.values li { min-width: 3.2rem; padding: .1rem .45rem .2rem; border-radius: 3px; text-align: right; line-height: 1.25; }
.values small { display: block; text-align: left; font-size: .65rem; opacity: .75; }
.shade0 { background: var(--hole); color: var(--faint); } .shade1 { background: var(--level1); }
.shade2 { background: var(--level2); color: var(--on2); }
.shade3 { background: var(--level3); color: var(--on3); }
.shade4 { background: var(--level4); color: var(--card); }

summary { cursor: pointer; }
summary:hover { color: var(--accent); }
pre { margin: .5rem 0; padding: .6rem .75rem; background: var(--hole); border-radius: 4px; font-size: .75rem;
  line-height: 1.45; overflow-x: auto; }
pre.text { white-space: pre-wrap; }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--faint); }
footer { font-size: .85rem; }

@media (max-width: 40rem) {
  body { padding: 1.25rem 1rem 3rem; font-size: 14px; }
  .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { grid-column: 1; margin-bottom: .5rem; }
  .object { padding: .9rem .9rem 1rem; }
  .told { grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .45rem .75rem; }
  .between { display: none; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 9pt; --paper: #fff; print-color-adjust: exact; }
  :root { font-size: 12px; }
  body { -webkit-print-color-adjust: exact; }
  .object { content-visibility: visible; }
  .object, .tile, tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  .scroll table { font-size: 6.5pt; }
  .scroll th, .scroll td { padding: .15rem .25rem; }
  .scroll .time { white-space: normal; }
  .scroll thead th { font-size: 5.5pt; }
  td .bar { width: 2.5rem; }
  h2, h3 { break-after: avoid; }
}
"""

_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# Content security policy: the page fetches nothing, runs nothing, and has no other style.
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
