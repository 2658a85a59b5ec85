//! Which lines of a node's log are wanted: `[seconds.microseconds] level target: text`.

use log::Level;

/// What a line must have.
#[derive(Clone, Debug, Default)]
pub struct LogFilter {
    /// This level or a worse one.
    pub level: Option<Level>,
    /// One of these targets; any where there is none.
    pub targets: Vec<String>,
}

impl LogFilter {
    /// Whether a line is shown. Last words of a hypervisor, and a line of which the log has
    /// only the end, have no level: they are shown where any target is.
    #[must_use]
    pub fn takes(&self, line: &str) -> bool {
        match level_and_target(line) {
            Some((level, target)) => {
                self.level.is_none_or(|most| level <= most)
                    && (self.targets.is_empty() || self.targets.iter().any(|wanted| wanted == target))
            }
            None => self.targets.is_empty(),
        }
    }

    /// The lines of a text that are shown, each with its end.
    #[must_use]
    pub fn lines(&self, text: &str) -> String {
        text.split_inclusive('\n').filter(|line| self.takes(line)).collect()
    }
}

/// Level and target of a line.
#[must_use]
pub fn level_and_target(line: &str) -> Option<(Level, &str)> {
    let (_, rest) = line.strip_prefix('[')?.split_once("] ")?;
    let (level, rest) = rest.split_once(' ')?;
    let (target, _) = rest.split_once(": ")?;
    Some((level.parse().ok()?, target))
}

#[cfg(test)]
mod tests {
    use super::{LogFilter, level_and_target};
    use log::Level;

    const LOG: &str = "half a line\n\
        [    0.000100] info memory: 1023 MiB usable, 9216 KiB in use\n\
        [    2.500000] warn storage: portal 10.0.0.3: lost\n\
        [    3.000000] error dom0: panicked at storage: [x] y\n\
        hypervisor failed: panicked\n\
        [    4.000000] info storage: portal 10.0.0.3: back\n";

    fn shown(level: Option<Level>, targets: &[&str]) -> Vec<String> {
        let filter = LogFilter { level, targets: targets.iter().map(|it| (*it).to_string()).collect() };
        let word = |line: &str| line.split_whitespace().last().unwrap().to_string();
        filter.lines(LOG).lines().map(word).collect()
    }

    #[test]
    fn level_and_target_choose_lines() {
        assert_eq!(shown(None, &[]).len(), 6);
        assert_eq!(shown(Some(Level::Info), &[]).len(), 6);
        assert_eq!(shown(Some(Level::Warn), &[]), ["line", "lost", "y", "panicked"]);
        assert_eq!(shown(Some(Level::Error), &[]), ["line", "y", "panicked"]);
        assert_eq!(shown(None, &["storage"]), ["lost", "back"]);
        assert_eq!(shown(Some(Level::Warn), &["storage", "memory"]), ["lost"]);
        assert_eq!(shown(None, &["stor"]), [""; 0]);
    }

    #[test]
    fn what_is_no_line_has_neither() {
        for line in
            ["", "[", "[1] ", "[1] info", "[1] info x", "[1] loud x: y", "1] info x: y", "[1 info x: y"]
        {
            assert_eq!(level_and_target(line), None, "{line}");
        }
        assert_eq!(level_and_target("[1] info x: y: z"), Some((Level::Info, "x")));
    }
}
