//! A regular expression of a configuration, compiled: Python's dialect, and a bound on what matching it costs.
//!
//! The `regex` crate runs in time linear in the path *times* the compiled expression: a pattern of twenty bytes may compile
//! to a quarter of a megabyte and take 20 ms a path, so that a table of such patterns against thousands of names takes
//! hours. So each knows its size, and [`refuse_bomb`] adds them up before anything is matched.
//!
//! The two dialects are not the same: what Python reads differently, or this crate cannot express (look-around,
//! back-references), is refused, never guessed. Knows nothing of what a pattern is for.

use regex::{Error, Regex, RegexBuilder};

/// The longest regular expression that is compiled.
pub(super) const MAX_PATTERN: usize = 16 << 10;
/// As much of one as a message shows, in characters.
const SHOWN: usize = 100;
/// The memory one compiled expression may take, and the steps in which it is found out what it takes, in bytes.
const SIZES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];
/// Bytes that all expressions of one key may take: each megabyte takes up to a tenth of a second to compile.
const MOST_COMPILED: usize = 2 << 20;
/// Bytes compiled times characters matched: about 10 s where the engine is at its worst (0.3 ns each), and ten times what
/// a thousand modules need under a table of patterns for every layer.
const MOST_MATCHING: u64 = 1 << 35;

/// A compiled expression.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    pub(super) regex: Regex,
    /// Bytes it takes at most.
    pub(super) size: usize,
}

impl Expression {
    /// `before` + `pattern` + `after` for the `regex` crate, where `pattern` means the same to it as to Python.
    pub(super) fn new(pattern: &str, before: &str, after: &str) -> Result<Self, String> {
        if pattern.len() > MAX_PATTERN {
            return Err(format!(
                "a regular expression of {} bytes, at most {MAX_PATTERN}",
                pattern.len()
            ));
        }
        let shown: String = pattern.chars().take(SHOWN).collect();
        let refuse = |why: &str| format!("regular expression {shown:?}: {why}");
        same_dialect(pattern).map_err(refuse)?;
        let of_size = |text: &str, size: usize| {
            RegexBuilder::new(text)
                .size_limit(size)
                .dfa_size_limit(SIZES[SIZES.len() - 1])
                .nest_limit(64)
                .build()
        };
        let build = |text: &str| {
            let mut last = Err(Error::CompiledTooBig(0));
            for size in SIZES {
                last = of_size(text, size).map(|regex| Self { regex, size });
                if !matches!(last, Err(Error::CompiledTooBig(_))) {
                    break;
                }
            }
            last.map_err(|e| {
                let text = e.to_string();
                refuse(text.lines().last().unwrap_or_default().trim())
            })
        };
        // Alone first: `a)(b` must not become valid by what is put around it.
        build(pattern)?;
        build(&format!("{before}{pattern}{after}"))
    }
}

/// The expressions of one key, which may not take more than [`MOST_COMPILED`] together.
#[derive(Debug, Default)]
pub(super) struct Compiler {
    compiled: usize,
}

impl Compiler {
    /// As [`Expression::new`].
    pub(super) fn compile(
        &mut self,
        pattern: &str,
        before: &str,
        after: &str,
    ) -> Result<Expression, String> {
        let expression = Expression::new(pattern, before, after)?;
        self.compiled += expression.size;
        if self.compiled > MOST_COMPILED {
            let most = MOST_COMPILED >> 10;
            return Err(format!(
                "regular expressions of more than {most} KiB compiled"
            ));
        }
        Ok(expression)
    }
}

/// An error where expressions of `compiled` bytes in all are to be matched against names of `characters` in all, and
/// nobody would wait for it.
pub(super) fn refuse_bomb(compiled: usize, characters: usize) -> Result<(), String> {
    if compiled as u64 * characters as u64 <= MOST_MATCHING {
        return Ok(());
    }
    Err(format!(
        "its regular expressions compile to {} KiB, too much to match against {characters} characters of module names",
        compiled >> 10
    ))
}

/// Whether the `regex` crate reads `pattern` as Python does; what it cannot parse at all it says itself.
fn same_dialect(pattern: &str) -> Result<(), &'static str> {
    let mut rest = pattern.chars().peekable();
    let mut in_class = false;
    let mut class_start = false;
    let mut after_repeat = false;
    while let Some(c) = rest.next() {
        let next = rest.peek().copied();
        let (was_repeat, was_class_start) = (after_repeat, class_start);
        (after_repeat, class_start) = (false, false);
        match c {
            '\\' => {
                let escaped = rest.next().ok_or("it ends in a backslash")?;
                let letter = escaped.is_ascii_alphanumeric();
                if (letter && !"dDwWsSbBAnrtfv".contains(escaped)) || "<>".contains(escaped) {
                    return Err("an escape that is not read alike by Python");
                }
                if escaped == 'b' && (in_class || rest.peek() == Some(&'{')) {
                    return Err("an escape that is not read alike by Python");
                }
            }
            '[' if in_class => return Err("a bracket inside a class"),
            '[' => {
                in_class = true;
                class_start = true;
                if next == Some('^') {
                    rest.next();
                }
            }
            // The first character of a class may be a bracket, as itself.
            ']' if in_class => in_class = was_class_start,
            '&' | '-' | '~' if in_class && next == Some(c) => {
                return Err("a set operation inside a class");
            }
            _ if in_class => {}
            '(' if next == Some('?') => {
                let ahead: String = rest.clone().skip(1).take_while(|c| *c != ')').collect();
                let flags = ahead.split(':').next().unwrap_or_default();
                let only_flags = flags.chars().all(|c| "ims-".contains(c));
                let looks = ahead.starts_with(['=', '!']) || ahead.starts_with("<");
                if looks {
                    return Err("look-around is not supported");
                }
                if !ahead.starts_with("P<") && !only_flags {
                    return Err("a group that is not read alike by Python");
                }
                rest.next(); // the question mark is not a repetition
            }
            '*' | '+' | '?' | '{' => {
                if was_repeat {
                    return Err("a repetition of a repetition");
                }
                if c == '{' {
                    for inner in rest.by_ref() {
                        if inner == '}' {
                            break;
                        }
                    }
                }
                if rest.peek() == Some(&'?') {
                    rest.next(); // lazy: the same paths match
                }
                after_repeat = true;
            }
            _ => {}
        }
    }
    Ok(())
}
