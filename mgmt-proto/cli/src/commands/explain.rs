//! `redoubt explain`: what the reasons of failures mean.

use mgmt_proto::code::{Code, Failure};
use mgmt_proto::reason::{EXPLANATIONS, Explanation};
use redoubt::answer::{Answer, Text};
use redoubt::{nearest, table::Table};
use serde::Serialize;

/// A reason, for programs.
#[derive(Serialize)]
struct Reason {
    reason: &'static str,
    /// The exit code, or null where it varies.
    code: Option<u8>,
    meaning: &'static str,
    message: &'static str,
    remedy: &'static str,
}

impl Reason {
    fn new(of: &Explanation) -> Self {
        let Explanation { name, code, meaning, message, remedy } = *of;
        Self { reason: name, code: code.map(|code| code as u8), meaning, message, remedy }
    }
}

/// One reason, or all of them.
pub(crate) fn explain(name: Option<&str>) -> Result<Answer, Failure> {
    let Some(name) = name else { return Ok(all()) };
    let found = EXPLANATIONS.iter().find(|it| it.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
        let names = EXPLANATIONS.iter().map(|it| it.name);
        let remedy = nearest::remedy(name, names, "see `redoubt explain`");
        Failure::new(Code::NotFound, name, "no reason has that name", remedy)
    })?;
    let reason = Reason::new(found);
    let code = reason.code.map_or_else(|| "varies".into(), |code| code.to_string());
    let text = format!(
        "{} (exit code {code})\n{}\nit says:    {}\nwhat to do: {}\n",
        found.name, found.meaning, found.message, found.remedy
    );
    Ok(Answer::new(&reason, vec![found.name.into()], Text::Lines(text)))
}

fn all() -> Answer {
    let reasons: Vec<Reason> = EXPLANATIONS.iter().map(Reason::new).collect();
    let mut table = Table::new(&["Reason", ">Code", "Meaning"]);
    for it in &reasons {
        let code = it.code.map_or_else(|| "-".into(), |code| code.to_string());
        table.push(vec![it.reason.into(), code, it.meaning.into()]);
    }
    Answer::table(&reasons, reasons.iter().map(|it| it.reason.to_string()).collect(), table)
}
