//! What is made from the command line's own description: completions, man pages,
//! the list of exit codes.

use crate::arguments::Arguments;
use crate::scope::print;
use clap::CommandFactory;
use mgmt_proto::code::{Code, Failure};
use redoubt::answer::Answer;
use redoubt::exit;
use redoubt::table::Table;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct ExitCode {
    code: u8,
    meaning: &'static str,
}

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "redoubt", &mut text);
    print(&String::from_utf8_lossy(&text)).map(|_| ())
}

pub(crate) fn man(directory: &Path) -> Result<Answer, Failure> {
    let failed = |error: std::io::Error| exit::file(directory, &error);
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Arguments::command(), directory).map_err(failed)?;
    let entries = std::fs::read_dir(directory).map_err(failed)?.filter_map(Result::ok);
    let mut names: Vec<String> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "1"))
        .map(|path| path.display().to_string())
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(Failure::new(Code::Internal, directory.display().to_string(), "no page was made", ""));
    }
    let lines = names.iter().fold(String::new(), |text, name| text + name + "\n");
    Ok(Answer::new(&names, names.clone(), redoubt::answer::Text::Lines(lines)))
}

pub(crate) fn exit_codes() -> Answer {
    let codes: Vec<ExitCode> = exit::meanings().map(|(code, meaning)| ExitCode { code, meaning }).collect();
    let mut table = Table::new(&[">Code", "Meaning"]);
    for code in &codes {
        table.push(vec![code.code.to_string(), code.meaning.into()]);
    }
    Answer::table(&codes, codes.iter().map(|code| code.code.to_string()).collect(), table)
}
