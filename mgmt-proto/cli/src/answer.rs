//! What a verb answers, and the forms it is printed in.
//!
//! Every verb makes one [`Answer`]; so every verb can be printed in every form, and
//! the answers of many nodes can be put together.

use crate::json;
use crate::table::Table;
use mgmt_proto::code::Failure;
use serde::Serialize;
use serde_json::Value;

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// For people.
    #[default]
    Table,
    /// As table, with more columns.
    Wide,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
    /// Names only, one on each line.
    Name,
}

/// What people read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// A table.
    Table(Table),
    /// Lines.
    Lines(String),
}

/// What a verb answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For programs.
    pub value: Value,
    /// Names of what it is about.
    pub names: Vec<String>,
    /// For people.
    pub text: Text,
    /// For people with wide screens, where it differs.
    pub wide: Option<Text>,
    /// What failed although there is an answer.
    pub failure: Option<Failure>,
}

impl Text {
    fn print(&self) -> String {
        match self {
            Self::Table(table) => table.to_string(),
            Self::Lines(lines) => lines.clone(),
        }
    }

    pub(crate) fn first_line(&self) -> String {
        let text = self.print();
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default().to_string();
        match (self, lines.count()) {
            (Self::Table(_), 1) => "1 row".into(),
            (Self::Table(_), rows) => format!("{rows} rows"),
            (Self::Lines(_), 0) => first,
            (Self::Lines(_), more) => format!("{first} (and {more} lines)"),
        }
    }
}

impl Answer {
    /// An answer with its text.
    #[must_use]
    pub fn new<T: Serialize + ?Sized>(value: &T, names: Vec<String>, text: Text) -> Self {
        // Only a map with other keys than text cannot become a value.
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        Self { value, names, text, wide: None, failure: None }
    }

    /// An answer in lines.
    #[must_use]
    pub fn lines<T: Serialize + ?Sized>(value: &T, name: &str, lines: String) -> Self {
        Self::new(value, vec![name.into()], Text::Lines(lines))
    }

    /// An answer in a table.
    #[must_use]
    pub fn table<T: Serialize + ?Sized>(value: &T, names: Vec<String>, table: Table) -> Self {
        Self::new(value, names, Text::Table(table))
    }

    /// With another table for wide screens.
    #[must_use]
    pub fn with_wide(mut self, table: Table) -> Self {
        self.wide = Some(Text::Table(table));
        self
    }

    /// That something was done.
    #[must_use]
    pub fn done(done: &json::Done) -> Self {
        Self::lines(done, &done.object, done.line())
    }

    /// That several things were done.
    #[must_use]
    pub fn all_done(all: &[json::Done]) -> Self {
        let names = all.iter().map(|done| done.object.clone()).collect();
        Self::new(all, names, Text::Lines(all.iter().map(json::Done::line).collect()))
    }

    pub(crate) fn text(&self, form: Form) -> &Text {
        match (form, &self.wide) {
            (Form::Wide, Some(wide)) => wide,
            _ => &self.text,
        }
    }

    /// The answer in a form.
    #[must_use]
    pub fn render(&self, form: Form) -> String {
        match form {
            Form::Table | Form::Wide => self.text(form).print(),
            Form::Json => format!("{}\n", json::text(&self.value)),
            Form::Yaml => yaml(&self.value),
            Form::Name => self.names.iter().fold(String::new(), |text, name| text + name + "\n"),
        }
    }
}

/// A value as YAML.
#[must_use]
pub fn yaml(value: &Value) -> String {
    let mut text = serde_saphyr::to_string(value).unwrap_or_else(|_| "null\n".into());
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
