//! The rank map as a self-contained SVG: no script, no font, no image, light and dark by the viewer's preference.
//!
//! Shades are classes, so that the dark palette can run the other way (bright is high) and each shade can name a text
//! colour that stands out on it. Bars in the margins are sums over a layer and over a site. Every cell says in words what
//! it is (`<title>`), for a pointer that rests on it and for a screen reader.

use std::fmt::Write;

use super::{Cell, LEVELS, Map, RankRow};
use crate::report::{escape, grouped};

// Sizes in px. Text widths are estimates (no font is at hand), on the generous side.
const MARGIN: f64 = 24.0;
const CELL_HEIGHT: f64 = 28.0;
const CELL_LEAST: f64 = 46.0;
const GAP: f64 = 3.0;
const LABEL_CHARACTER: f64 = 6.9;
const TITLE_CHARACTER: f64 = 9.6;
const SUMMARY_CHARACTER: f64 = 6.6;
const LAYER_WIDTH: f64 = 44.0;
const BAR_LENGTH: f64 = 84.0;
const BAR_HEIGHT: f64 = 7.0;
/// Characters of a heading before it is cut; the whole name stands in its `<title>`.
const LABEL_MOST: usize = 24;

/// Fill and text colour of each shade, on white and on black.
const LIGHT: [(&str, &str); LEVELS] = [
    ("#e2f0f3", "#17323f"),
    ("#c2e1e9", "#17323f"),
    ("#9acedc", "#12303f"),
    ("#6fb8cd", "#0c2733"),
    ("#479dba", "#071d28"),
    ("#2a7b9d", "#ffffff"),
    ("#1b5d80", "#ffffff"),
    ("#114163", "#ffffff"),
];
const DARK: [(&str, &str); LEVELS] = [
    ("#15303e", "#cfe3ea"),
    ("#194458", "#d8eaf0"),
    ("#1d5a73", "#e4f2f6"),
    ("#22718e", "#ffffff"),
    ("#3592ad", "#04151d"),
    ("#55afc5", "#04151d"),
    ("#85ccd9", "#04151d"),
    ("#bce8ec", "#04151d"),
];

/// The map as an SVG document.
pub fn svg(title: &str, rows: &[RankRow]) -> String {
    let map = Map::new(title, rows);
    let layout = Layout::of(&map);
    let mut out = String::new();
    let (w, h) = (layout.width, layout.height);
    let _ = writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w:.0} {h:.0}" width="{w:.0}" height="{h:.0}" role="img" aria-labelledby="rankmap-title rankmap-summary">"#
    );
    let _ = writeln!(
        out,
        r#"<title id="rankmap-title">Rank map of {}</title>"#,
        escape(&map.title)
    );
    let _ = writeln!(
        out,
        r#"<desc id="rankmap-summary">{}</desc>"#,
        escape(&map.summary())
    );
    style(&mut out);
    let _ = writeln!(
        out,
        r#"<rect class="ground" width="{w:.0}" height="{h:.0}" rx="12"/>"#
    );
    say(&mut out, "title", MARGIN, MARGIN + 16.0, &map.title);
    say(&mut out, "quiet", MARGIN, MARGIN + 36.0, &map.summary());
    if !rows.is_empty() {
        headings(&mut out, &map, &layout);
        layers(&mut out, &map, &layout);
        sums(&mut out, &map, &layout);
        legend(&mut out, &map, &layout);
    }
    out.push_str("</svg>\n");
    out
}

/// Where things stand.
struct Layout {
    cell: f64,   // width of a cell
    left: f64,   // of the first column
    top: f64,    // of the first layer
    right: f64,  // end of the last column
    bottom: f64, // end of the last layer
    width: f64,
    height: f64,
}

impl Layout {
    fn of(map: &Map) -> Layout {
        let label = |s: &str| s.chars().count().min(LABEL_MOST) as f64 * LABEL_CHARACTER + 10.0;
        let mut cell = map
            .columns
            .iter()
            .map(|c| label(&c.leaf))
            .fold(CELL_LEAST, f64::max);
        for (group, _, n) in map.groups() {
            cell = cell.max((label(group) - GAP * (n as f64 - 1.0)) / n as f64);
        }
        let left = MARGIN + LAYER_WIDTH;
        let top = MARGIN + 36.0 + if map.has_groups() { 62.0 } else { 42.0 };
        let columns = map.columns.len() as f64;
        let right = left + columns * (cell + GAP);
        let bottom = top + map.layers.len() as f64 * (CELL_HEIGHT + GAP);
        let bars = right + 12.0 + BAR_LENGTH + 40.0;
        let text = |s: &str, per: f64| MARGIN + s.chars().count() as f64 * per;
        let (title, summary) = (
            text(&map.title, TITLE_CHARACTER),
            text(&map.summary(), SUMMARY_CHARACTER),
        );
        let (grid, width) = match map.columns.is_empty() {
            true => (MARGIN + 36.0, 0.0),
            false => (bottom + 10.0 + BAR_HEIGHT + 62.0, bars.max(left + LEGEND)),
        };
        Layout {
            cell,
            left,
            top,
            right,
            bottom,
            width: width.max(title).max(summary) + MARGIN,
            height: grid + MARGIN,
        }
    }

    fn x(&self, column: usize) -> f64 {
        self.left + column as f64 * (self.cell + GAP)
    }

    fn y(&self, row: usize) -> f64 {
        self.top + row as f64 * (CELL_HEIGHT + GAP)
    }
}

fn style(out: &mut String) {
    out.push_str(
        "<style>\n\
         text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;fill:#22303a;font-variant-numeric:tabular-nums}\n\
         .title{font-size:17px;font-weight:600}.quiet{fill:#5b6b76}.number{font-weight:500}\n\
         .middle{text-anchor:middle}.end{text-anchor:end}\n\
         .ground{fill:#ffffff}.rule{stroke:#b9c4cc;fill:none}.bar{fill:#9fb3bf}\n\
         rect.s0{fill:none;stroke:#d3dbe1;stroke-dasharray:3 3}text.s0{fill:#6a7983}\n",
    );
    let palette = |out: &mut String, shades: &[(&str, &str); LEVELS]| {
        for (i, (fill, text)) in shades.iter().enumerate() {
            let n = i + 1;
            let _ = writeln!(out, "rect.s{n}{{fill:{fill}}}text.s{n}{{fill:{text}}}");
        }
    };
    palette(out, &LIGHT);
    out.push_str(
        "@media (prefers-color-scheme:dark){\n\
         text{fill:#dbe4ea}.quiet{fill:#93a4af}.ground{fill:#0f161b}.rule{stroke:#3c4a54}.bar{fill:#566873}\n\
         rect.s0{stroke:#2f3b44}text.s0{fill:#82929d}\n",
    );
    palette(out, &DARK);
    out.push_str("}\n</style>\n");
}

/// Names of the sites, and over neighbours of one group its name with a rule.
fn headings(out: &mut String, map: &Map, layout: &Layout) {
    let y = layout.top - 10.0;
    say(out, "quiet end", layout.left - 12.0, y, "layer");
    for (i, column) in map.columns.iter().enumerate() {
        heading(
            out,
            "middle",
            layout.x(i) + layout.cell / 2.0,
            y,
            &column.leaf,
            &column.site,
        );
    }
    for (group, first, n) in map.groups() {
        if group.is_empty() {
            continue;
        }
        let (x0, x1) = (layout.x(first), layout.x(first + n - 1) + layout.cell);
        heading(out, "quiet middle", (x0 + x1) / 2.0, y - 26.0, group, group);
        let (a, b, rule) = (x0 + 2.0, x1 - 2.0, y - 18.5);
        let _ = writeln!(out, r#"<path class="rule" d="M{a:.1} {rule:.1}H{b:.1}"/>"#);
    }
    say(out, "quiet", layout.right + 12.0, y, "sum");
}

fn layers(out: &mut String, map: &Map, layout: &Layout) {
    let sums: Vec<Cell> = map
        .layers
        .values()
        .map(|cells| Map::sum_of(cells))
        .collect();
    let most = sums.iter().map(|sum| sum.rank).max().unwrap_or(0).max(1);
    for (row, (layer, cells)) in map.layers.iter().enumerate() {
        let (y, middle) = (layout.y(row), layout.y(row) + CELL_HEIGHT / 2.0 + 4.2);
        say(
            out,
            "quiet end",
            layout.left - 12.0,
            middle,
            &layer.to_string(),
        );
        for (i, cell) in cells.iter().enumerate() {
            let Some(cell) = cell else { continue };
            let (x, w, level) = (layout.x(i), layout.cell, map.level(cell.rank));
            let told = told(&format!("layer {layer}, {}", map.columns[i].site), cell);
            // A dashed edge is drawn inside the cell that a fill would take.
            let inset = if level == 0 { 0.5 } else { 0.0 };
            let (rx, ry) = (x + inset, y + inset);
            let (rw, rh) = (w - 2.0 * inset, CELL_HEIGHT - 2.0 * inset);
            let _ = writeln!(
                out,
                r#"<g><title>{told}</title><rect class="s{level}" x="{rx:.1}" y="{ry:.1}" width="{rw:.1}" height="{rh:.1}" rx="5"/><text class="number middle s{level}" x="{:.1}" y="{middle:.1}">{}</text></g>"#,
                x + w / 2.0,
                cell.rank
            );
        }
        let length = BAR_LENGTH * sums[row].rank as f64 / most as f64;
        let told = told(&format!("layer {layer}"), &sums[row]);
        let (x, y, height) = (layout.right + 12.0, y + 8.0, CELL_HEIGHT - 16.0);
        let _ = writeln!(
            out,
            r#"<g><title>{told}</title><rect class="bar" x="{x:.1}" y="{y:.1}" width="{length:.1}" height="{height:.1}" rx="2"/></g>"#
        );
        say(
            out,
            "quiet",
            x + length + 7.0,
            middle,
            &sums[row].rank.to_string(),
        );
    }
}

/// Bars under the columns.
fn sums(out: &mut String, map: &Map, layout: &Layout) {
    let most = (map.columns.iter().map(|c| c.total.rank).max())
        .unwrap_or(0)
        .max(1);
    let top = layout.bottom + 10.0;
    let text = top + BAR_HEIGHT + 17.0;
    say(out, "quiet end", layout.left - 12.0, text, "sum");
    for (i, column) in map.columns.iter().enumerate() {
        let length = layout.cell * column.total.rank as f64 / most as f64;
        let middle = layout.x(i) + layout.cell / 2.0;
        let told = told(&column.site, &column.total);
        let _ = writeln!(
            out,
            r#"<g><title>{told}</title><rect class="bar" x="{:.1}" y="{top:.1}" width="{length:.1}" height="{BAR_HEIGHT:.0}" rx="2"/></g>"#,
            middle - length / 2.0
        );
        say(
            out,
            "quiet middle",
            middle,
            text,
            &column.total.rank.to_string(),
        );
    }
}

/// Width that the legend takes.
const LEGEND: f64 = 310.0;

/// The shades and the ranks at their ends.
fn legend(out: &mut String, map: &Map, layout: &Layout) {
    let y = layout.height - MARGIN - 14.0;
    let text = y + 10.5;
    let mut x = layout.left;
    say(out, "quiet end", x - 12.0, text, "rank");
    let _ = writeln!(
        out,
        r#"<rect class="s0" x="{:.1}" y="{:.1}" width="21" height="13" rx="3"/>"#,
        x + 0.5,
        y + 0.5
    );
    say(out, "quiet", x + 27.0, text, "0, pruned");
    x += 108.0;
    // No more shades than ranks: a scale of 2 has two.
    let shades: Vec<usize> = match map.scale {
        scale if scale < LEVELS => (1..=scale).map(|rank| map.level(rank)).collect(),
        _ => (1..=LEVELS).collect(),
    };
    say(out, "quiet", x, text, "1");
    x += 12.0;
    for level in shades {
        let _ = writeln!(
            out,
            r#"<rect class="s{level}" x="{x:.1}" y="{y:.1}" width="15" height="14" rx="2"/>"#
        );
        x += 16.0;
    }
    say(out, "quiet", x + 5.0, text, &map.scale.to_string());
}

/// `layer 3, query: rank 5 of 8, 7,680 parameters`
fn told(what: &str, cell: &Cell) -> String {
    let of = cell
        .r_max
        .map_or(String::new(), |r_max| format!(" of {r_max}"));
    let what = escape(&super::printable(what));
    format!(
        "{what}: rank {}{of}, {} parameters",
        cell.rank,
        grouped(cell.params)
    )
}

fn say(out: &mut String, class: &str, x: f64, y: f64, text: &str) {
    let text = escape(text);
    let _ = writeln!(
        out,
        r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{text}</text>"#
    );
}

/// A name that may be cut, with the whole of it for a pointer.
fn heading(out: &mut String, class: &str, x: f64, y: f64, name: &str, whole: &str) {
    let mut shown: String = name.chars().take(LABEL_MOST).collect();
    if shown.len() < name.len() {
        shown.pop();
        shown.push('…');
    }
    let (shown, whole) = (escape(&shown), escape(&super::printable(whole)));
    let _ = writeln!(
        out,
        r#"<text class="{class}" x="{x:.1}" y="{y:.1}"><title>{whole}</title>{shown}</text>"#
    );
}
