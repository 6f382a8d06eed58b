//! Maps to the letter, and names that are not names.

use super::*;

fn row(layer: usize, site: &str, rank: usize, r_max: Option<usize>) -> RankRow {
    RankRow {
        layer,
        site: site.to_owned(),
        rank,
        r_max,
        params: (rank as u64).saturating_mul(768),
    }
}

/// An adapter like those that pruning makes: upper layers and values keep more.
fn pruned(layers: usize) -> Vec<RankRow> {
    let sites = [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ];
    let mut rows = Vec::new();
    for layer in 0..layers {
        for (i, site) in sites.iter().enumerate() {
            let rank = (layer * 3 + i * 5 + layer * i) % 11 * (layer + 2) / (layers + 1);
            rows.push(row(layer, site, rank.min(8), Some(8)));
        }
    }
    rows
}

#[test]
fn text_to_the_letter() {
    let rows = [
        row(0, "query", 8, Some(8)),
        row(0, "value", 0, Some(8)),
        row(1, "query", 4, Some(8)),
        row(1, "value", 3, Some(8)),
        row(10, "value", 1, Some(8)),
    ];
    let expected = "\
sst2: rank 16 of 40 (40 %) at 4 of 5 sites, 12,288 parameters

layer  query  value  sum  params
    0    █ 8    · 0    8   6,144
    1    ▄ 4    ▃ 3    7   5,376
   10           ▁ 1    1     768
  sum     12      4   16  12,288
";
    assert_eq!(text("sst2", &rows), expected);
}

#[test]
fn groups_stand_over_their_sites() {
    let expected = "\
cola: rank 47 of 96 (49 %) at 10 of 12 sites, 36,096 parameters

       ── attention.self ──  attention.output  intermediate  output
layer   query   key   value             dense         dense   dense  sum  params
    0     · 0   ▃ 3     ▆ 6               ▂ 2           ▆ 6     ▂ 2   19  14,592
    1     ▃ 3   █ 8     ▄ 4               █ 8           ▅ 5     · 0   28  21,504
  sum       3    11      10                10            11       2   47  36,096
";
    let found = text("cola", &pruned(2));
    assert_eq!(found, expected, "\n{found}");
}

#[test]
fn without_a_largest_rank_the_largest_found_is_the_scale() {
    let rows = [
        row(0, "q", 2, None),
        row(1, "q", 16, Some(16)),
        row(2, "q", 1, None),
    ];
    let expected = "\
a: rank 19 at 3 of 3 sites, 14,592 parameters

layer     q  sum  params
    0   ▁ 2    2   1,536
    1  █ 16   16  12,288
    2   ▁ 1    1     768
  sum    19   19  14,592
";
    assert_eq!(text("a", &rows), expected);
}

#[test]
fn an_adapter_without_sites_is_a_line() {
    assert_eq!(
        text("none", &[]),
        "none: rank 0 at 0 of 0 sites, 0 parameters\n"
    );
    assert!(svg("none", &[]).ends_with("</svg>\n"));
}

#[test]
fn every_rank_has_its_shade_and_zero_alone_the_empty_one() {
    let rows = [
        row(0, "q", usize::MAX, Some(8)),
        row(1, "q", usize::MAX, None),
    ];
    let map = Map::new("", &rows);
    assert_eq!(
        (map.level(0), map.level(1), map.level(usize::MAX)),
        (0, 1, 8)
    );
    let map = Map::new("", &[row(0, "q", 3, Some(8))]);
    assert_eq!(
        (0..=9).map(|r| map.level(r)).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]
    );
}

#[test]
fn names_from_files_cannot_act() {
    let rows = [row(4_000_000_000, "\u{1b}[2J.<b>\"&\u{202e}", 1, None)];
    let text = text("t\u{7}\n", &rows);
    assert!(text.starts_with("t\u{fffd}\u{fffd}: rank 1"), "{text:?}");
    assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{text:?}");
    let svg = svg("<script>", &rows);
    assert!(
        !svg.contains(['\u{1b}', '\u{202e}']) && !svg.contains("<b>") && !svg.contains("<script>")
    );
    assert!(
        svg.contains("&lt;script&gt;") && svg.contains("&lt;b&gt;&quot;&amp;\u{fffd}"),
        "{svg}"
    );
}

#[test]
fn the_picture_says_every_cell_in_words() {
    let rows = pruned(3);
    let svg = svg("cola", &rows);
    for row in &rows {
        let told = format!(
            "<title>layer {}, {}: rank {} of 8, {} parameters</title>",
            row.layer,
            row.site,
            row.rank,
            grouped(row.params)
        );
        assert!(svg.contains(&told), "{told}");
    }
    assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
    assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    // Self-contained: nothing is fetched.
    assert!(!svg.contains("href") && !svg.contains("url(") && !svg.contains("<script"));
}

/// `SORANK_RANKMAP=DIR cargo test --lib the_pictures_for_eyes` writes some pictures, to look at.
#[test]
fn the_pictures_for_eyes() {
    let Some(directory) = std::env::var_os("SORANK_RANKMAP") else {
        return;
    };
    let write = |name: &str, title: &str, rows: &[RankRow]| {
        std::fs::write(
            std::path::Path::new(&directory).join(name),
            svg(title, rows),
        )
        .unwrap();
    };
    write("base.svg", "sst2", &pruned(12));
    write(
        "small.svg",
        "an adapter with a longer name, version 2",
        &[row(0, "Wqkv", 3, Some(4)), row(7, "Wo", 1, Some(4))],
    );
    let long = "a_family.with.deep.modules.and_a_long_last_name_too";
    write(
        "odd.svg",
        "odd",
        &[
            row(0, long, 128, None),
            row(1, "x.y", 0, None),
            row(1, "x.z", 17, None),
        ],
    );
}
