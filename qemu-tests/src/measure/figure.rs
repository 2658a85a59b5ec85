//! A figure, the table of them, and the budgets they are held to.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::path::Path;

/// One figure.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// All values, in ascending order.
    pub samples: Vec<f64>,
    /// Most that it may be, for sizes and counts.
    pub budget: Option<f64>,
}

impl Figure {
    /// The value in the middle.
    #[must_use]
    pub fn median(&self) -> f64 {
        let middle = self.samples.len() / 2;
        let upper = self.samples.get(middle).copied().unwrap_or(f64::NAN);
        if self.samples.len() % 2 == 1 {
            return upper;
        }
        let lower = self.samples.get(middle.saturating_sub(1)).copied().unwrap_or(f64::NAN);
        f64::midpoint(lower, upper)
    }

    /// The smallest and the largest value.
    #[must_use]
    pub fn range(&self) -> (f64, f64) {
        let at = |sample: Option<&f64>| sample.copied().unwrap_or(f64::NAN);
        (at(self.samples.first()), at(self.samples.last()))
    }

    fn exceeds(&self) -> bool {
        self.budget.is_some_and(|budget| self.median() > budget)
    }
}

/// Figures in the order they were taken; each is printed as it comes.
#[derive(Debug, Default)]
pub struct Table {
    figures: Vec<Figure>,
}

impl Table {
    /// Prints what the columns are.
    pub fn head() {
        let (name, median) = ("figure", "median");
        println!("{name:<64} {median:>13} {:<7} {:>27}", "unit", "spread, or budget");
    }

    /// Adds a figure that is one value.
    pub fn add(&mut self, name: &str, value: f64, unit: &'static str) {
        self.take(name, vec![value], unit, None);
    }

    /// Adds a figure that must not exceed its budget.
    pub fn add_with_budget(&mut self, name: &str, samples: Vec<f64>, unit: &'static str, budget: f64) {
        self.take(name, samples, unit, Some(budget));
    }

    /// Adds a figure that was measured several times.
    pub fn add_samples(&mut self, name: &str, samples: Vec<f64>, unit: &'static str) {
        self.take(name, samples, unit, None);
    }

    fn take(&mut self, name: &str, mut samples: Vec<f64>, unit: &'static str, budget: Option<f64>) {
        samples.sort_unstable_by(f64::total_cmp);
        let figure = Figure { name: name.to_string(), unit, samples, budget };
        let (low, high) = figure.range();
        let mut more = String::new();
        if figure.samples.len() > 1 {
            more = format!("{} .. {} of {}", shown(low), shown(high), figure.samples.len());
        }
        if let Some(budget) = budget {
            let word = if figure.exceeds() { "EXCEEDS" } else { "within" };
            more = format!("{more} {word} {}", shown(budget));
        }
        println!("{name:<64} {:>13} {unit:<7} {:>27}", shown(figure.median()), more.trim());
        self.figures.push(figure);
    }

    /// The figure of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }

    /// Writes all figures as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let all: Vec<Value> = self.figures.iter().map(Self::as_json).collect();
        std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
        println!("written to {}", path.display());
        Ok(())
    }

    fn as_json(figure: &Figure) -> Value {
        let (low, high) = figure.range();
        json!({
            "name": figure.name, "value": figure.median(), "unit": figure.unit,
            "low": low, "high": high, "samples": figure.samples.len(), "budget": figure.budget,
        })
    }

    /// Whether all figures are within their budgets.
    ///
    /// # Errors
    /// Names those that are not.
    pub fn check(&self) -> Result<()> {
        let exceeded = self.figures.iter().filter(|figure| figure.exceeds());
        let exceeded: Vec<&str> = exceeded.map(|figure| figure.name.as_str()).collect();
        ensure!(exceeded.is_empty(), "over budget: {}", exceeded.join("; "));
        Ok(())
    }
}

/// A value with three digits at least, and no insignificant ones.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A count as a figure's value.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "sizes and times are far below 2^53")]
pub const fn as_f64(value: u64) -> f64 {
    value as f64
}

/// Nanoseconds as milliseconds.
#[must_use]
pub const fn milliseconds(nanoseconds: u64) -> f64 {
    as_f64(nanoseconds) / 1e6
}

/// A number in a JSON object.
///
/// # Errors
/// When there is none of that name.
pub fn number(value: &Value, key: &str) -> Result<u64> {
    use anyhow::Context;
    value.get(key).and_then(Value::as_u64).with_context(|| format!("no number {key} in {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(samples: &[f64], budget: Option<f64>) -> Figure {
        Figure { name: "x".into(), unit: "ms", samples: samples.to_vec(), budget }
    }

    #[test]
    fn the_middle_is_found() {
        assert!((figure(&[1.0, 5.0, 9.0], None).median() - 5.0).abs() < 1e-9);
        assert!((figure(&[1.0, 5.0, 7.0, 9.0], None).median() - 6.0).abs() < 1e-9);
        assert!(figure(&[], None).median().is_nan());
    }

    #[test]
    fn budgets_are_held() {
        let mut table = Table::default();
        table.add_with_budget("small", vec![3.0, 1.0, 2.0], "bytes", 2.0);
        assert!(table.check().is_ok());
        table.add_with_budget("large", vec![3.0], "bytes", 2.0);
        assert_eq!(table.check().unwrap_err().to_string(), "over budget: large");
    }

    #[test]
    fn values_are_short() {
        assert_eq!(shown(1.2345), "1.23");
        assert_eq!(shown(12.345), "12.3");
        assert_eq!(shown(1_234_567.8), "1234568");
    }
}
