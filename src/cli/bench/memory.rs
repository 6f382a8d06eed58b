//! What the system says of this process and machine. Where it says nothing, zeros and "unknown".

use crate::report::bench::Memory;

/// Memory of this process now; `after` is what was done last.
pub(super) fn now(after: &str) -> Memory {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let private = kib(&text, "Private_Clean:") + kib(&text, "Private_Dirty:");
    Memory {
        after: after.to_owned(),
        rss_mib: kib(&text, "Rss:") / 1024.0,
        pss_mib: kib(&text, "Pss:") / 1024.0,
        private_mib: private / 1024.0,
    }
}

fn kib(text: &str, key: &str) -> f64 {
    let line = text.lines().find_map(|l| l.strip_prefix(key));
    let number = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0.0)
}

/// The CPU's name.
pub(super) fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    name.map_or("unknown CPU".to_owned(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kibibytes_are_found_by_their_key() {
        let text = "Rss:      2048 kB\nPss:   12 kB\nPss_Dirty: 7 kB\n";
        assert_eq!(
            (kib(text, "Rss:"), kib(text, "Pss:"), kib(text, "None:")),
            (2048.0, 12.0, 0.0)
        );
    }
}
