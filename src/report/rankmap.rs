//! The rank map: what rank an adapter kept at each layer (rows) and site (columns), as text and as a picture.
//!
//! Pruned adapters differ in where their ranks are; a table of numbers hides it and a heat map without numbers hides
//! the rest, so each cell has both. Shades go by the largest rank that was allowed (else the largest there
//! is), the same for all cells. A pruned site (rank 0) is drawn as empty; one that the adapter never had is not drawn.
//!
//! Site names come from files: control characters never reach a terminal or the XML. Only layers that occur have a
//! row, so that a name with layer 4,000,000,000 costs one row and not as many.

mod svg;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt::Write};

pub use self::svg::svg;
use super::grouped;

/// One adapted site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankRow {
    /// Its layer, from 0.
    pub layer: usize,
    /// Its name within the layer (`attention.self.query`); what stands before the last dot is a heading over its group.
    pub site: String,
    /// The rank it has now.
    pub rank: usize,
    /// The rank it could have had, where that is known.
    pub r_max: Option<usize>,
    /// Parameters of its factors.
    pub params: u64,
}

/// Shades from the lowest rank to the highest.
const LEVELS: usize = 8;

/// The map laid out: what text and picture share.
struct Map {
    title: String,
    columns: Vec<Column>,
    /// By layer; as many cells as columns.
    layers: BTreeMap<usize, Vec<Option<Cell>>>,
    total: Cell,
    sites: usize,
    live: usize,
    /// The rank of the deepest shade; at least 1.
    scale: usize,
}

struct Column {
    site: String,
    /// The name before its last dot.
    group: String,
    /// The name behind it.
    leaf: String,
    total: Cell,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    rank: usize,
    /// Known for a total only if known for all its cells.
    r_max: Option<usize>,
    params: u64,
}

impl Cell {
    /// A sum before its first summand.
    const NOTHING: Cell = Cell {
        rank: 0,
        r_max: Some(0),
        params: 0,
    };

    fn plus(self, other: Cell) -> Cell {
        Cell {
            rank: self.rank.saturating_add(other.rank),
            r_max: self
                .r_max
                .zip(other.r_max)
                .map(|(a, b)| a.saturating_add(b)),
            params: self.params.saturating_add(other.params),
        }
    }
}

impl Map {
    /// Columns stand in the order in which their sites first occur.
    fn new(title: &str, rows: &[RankRow]) -> Map {
        let mut map = Map {
            title: printable(title),
            columns: Vec::new(),
            layers: BTreeMap::new(),
            total: Cell::NOTHING,
            sites: rows.len(),
            live: rows.iter().filter(|row| row.rank > 0).count(),
            scale: (rows
                .iter()
                .map(|row| row.r_max.unwrap_or(0).max(row.rank))
                .max())
            .unwrap_or(0)
            .max(1),
        };
        for row in rows {
            if !map.columns.iter().any(|column| column.site == row.site) {
                let name = printable(&row.site);
                let (group, leaf) = name.rsplit_once('.').unwrap_or(("", &name));
                map.columns.push(Column {
                    site: row.site.clone(),
                    group: group.to_owned(),
                    leaf: leaf.to_owned(),
                    total: Cell::NOTHING,
                });
            }
        }
        for row in rows {
            let at = (map
                .columns
                .iter()
                .position(|column| column.site == row.site))
            .expect("each row's site was made a column above");
            let cell = Cell {
                rank: row.rank,
                r_max: row.r_max,
                params: row.params,
            };
            let width = map.columns.len();
            let cells = map
                .layers
                .entry(row.layer)
                .or_insert_with(|| vec![None; width]);
            cells[at] = Some(cells[at].map_or(cell, |other| other.plus(cell)));
            map.columns[at].total = map.columns[at].total.plus(cell);
            map.total = map.total.plus(cell);
        }
        map
    }

    /// `rank 94 of 288 (33 %) at 22 of 36 sites, 144,384 parameters`
    fn summary(&self) -> String {
        let mut out = format!("rank {}", self.total.rank);
        if let Some(r_max) = self.total.r_max.filter(|&r_max| r_max > 0) {
            let percent = 100.0 * self.total.rank as f64 / r_max as f64;
            let _ = write!(out, " of {r_max} ({percent:.0} %)");
        }
        let (live, sites, params) = (self.live, self.sites, grouped(self.total.params));
        let _ = write!(out, " at {live} of {sites} sites, {params} parameters");
        out
    }

    /// The shade of a rank: 0 for rank 0 alone, then 1 to [`LEVELS`].
    fn level(&self, rank: usize) -> usize {
        (rank as u128 * LEVELS as u128)
            .div_ceil(self.scale as u128)
            .min(LEVELS as u128) as usize
    }

    /// Runs of neighbouring columns of one group: (group, first column, columns).
    fn groups(&self) -> Vec<(&str, usize, usize)> {
        let mut runs: Vec<(&str, usize, usize)> = Vec::new();
        for (i, column) in self.columns.iter().enumerate() {
            match runs.last_mut() {
                Some((group, _, n)) if *group == column.group => *n += 1,
                _ => runs.push((&column.group, i, 1)),
            }
        }
        runs
    }

    fn has_groups(&self) -> bool {
        self.columns.iter().any(|column| !column.group.is_empty())
    }
}

impl Map {
    fn sum_of(cells: &[Option<Cell>]) -> Cell {
        cells
            .iter()
            .flatten()
            .fold(Cell::NOTHING, |sum, cell| sum.plus(*cell))
    }
}

/// The map as lines of text, aligned in a fixed-width font.
///
/// ```text
/// sst2: rank 15 of 32 (47 %) at 3 of 4 sites, 11,520 parameters
///
/// layer  query  value   sum  params
///     0    █ 8    · 0     8   6,144
///     1    ▄ 4    ▃ 3     7   5,376
///   sum     12      3    15  11,520
/// ```
pub fn text(title: &str, rows: &[RankRow]) -> String {
    let map = Map::new(title, rows);
    let mut out = format!("{}: {}\n", map.title, map.summary());
    if rows.is_empty() {
        return out;
    }
    out.push('\n');

    let blocks = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let show = |cell: &Option<Cell>| match cell {
        Some(cell) => format!("{} {}", blocks[map.level(cell.rank)], cell.rank),
        None => String::new(),
    };
    // Columns, right-aligned: layer, sites, sum, params.
    let mut lines: Vec<Vec<String>> = Vec::new();
    let line = |first: String, cells: Vec<String>, sum: Cell| {
        let end = [sum.rank.to_string(), grouped(sum.params)];
        [first]
            .into_iter()
            .chain(cells)
            .chain(end)
            .collect::<Vec<_>>()
    };
    let leaves = map.columns.iter().map(|column| column.leaf.clone());
    let ends = ["sum".to_owned(), "params".to_owned()];
    lines.push(
        ["layer".to_owned()]
            .into_iter()
            .chain(leaves)
            .chain(ends)
            .collect(),
    );
    for (layer, cells) in &map.layers {
        let sum = Map::sum_of(cells);
        lines.push(line(
            layer.to_string(),
            cells.iter().map(show).collect(),
            sum,
        ));
    }
    let totals = map
        .columns
        .iter()
        .map(|column| column.total.rank.to_string());
    lines.push(line("sum".to_owned(), totals.collect(), map.total));

    let mut widths: Vec<usize> = (0..lines[0].len())
        .map(|i| lines.iter().map(|line| width(&line[i])).max().unwrap_or(0))
        .collect();
    for (group, first, n) in map.groups() {
        // A group's name, with a rule on both sides, may be wider than its columns: they make room.
        let columns = &mut widths[1 + first..1 + first + n];
        let room = columns.iter().sum::<usize>() + GAP * (n - 1);
        let rules = if n > 1 && !group.is_empty() { 6 } else { 0 };
        for i in 0..(width(group) + rules).saturating_sub(room) {
            columns[i % n] += 1;
        }
    }
    if map.has_groups() {
        out.push_str(&group_line(&map, &widths));
    }
    for line in &lines {
        let cells = line.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(cell, &w)| pad_left(cell, w)).collect();
        out.push_str(cells.join(&" ".repeat(GAP)).trim_end());
        out.push('\n');
    }
    out
}

/// Spaces between columns.
const GAP: usize = 2;

/// The names of groups over their columns; one over several, between rules that span them: `── attention.self ──`.
fn group_line(map: &Map, widths: &[usize]) -> String {
    let mut line = " ".repeat(widths[0]);
    for (group, first, n) in map.groups() {
        let room = widths[1 + first..1 + first + n].iter().sum::<usize>() + GAP * (n - 1);
        line.push_str(&" ".repeat(GAP));
        if n > 1 && !group.is_empty() {
            let rest = room.saturating_sub(width(group) + 2);
            let (left, right) = (rest / 2, rest - rest / 2);
            let _ = write!(line, "{} {group} {}", "─".repeat(left), "─".repeat(right));
        } else {
            line.push_str(&pad_left(group, room));
        }
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

fn width(s: &str) -> usize {
    s.chars().count()
}

fn pad_left(s: &str, to: usize) -> String {
    format!("{}{s}", " ".repeat(to.saturating_sub(width(s))))
}

/// Without characters that would do something instead of being seen.
fn printable(s: &str) -> String {
    let shown = |c: char| match c {
        c if c.is_control() => '\u{fffd}',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        c => c,
    };
    s.chars().map(shown).collect()
}
