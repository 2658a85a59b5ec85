//! What the source says about types, fields and variants: the document says the same.

use std::collections::BTreeMap;

/// By type, and by its field or variant (empty for the type itself), and a variant's field.
pub(crate) type Comments = BTreeMap<(String, String, String), String>;

/// Reads the documentation comments of one source file.
pub(crate) fn read(source: &str, comments: &mut Comments) {
    let (mut comment, mut name, mut variant) = (String::new(), String::new(), String::new());
    let mut is_encoded = false;
    let word =
        |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_string();
    for line in source.lines() {
        let trimmed = line.trim_start();
        let depth = line.len() - trimmed.len();
        if let Some(text) = trimmed.strip_prefix("///") {
            if !comment.is_empty() {
                comment.push(' ');
            }
            comment.push_str(text.trim());
            continue;
        }
        if trimmed.starts_with("#[") {
            is_encoded |= depth == 0 && trimmed.contains("Serialize");
            continue;
        }
        let item = ["pub struct ", "pub enum "].iter().find_map(|start| trimmed.strip_prefix(start));
        let key = match (depth, item) {
            // Others may have the same name.
            (0, Some(rest)) if std::mem::take(&mut is_encoded) => {
                name = word(rest);
                Some((name.clone(), String::new(), String::new()))
            }
            (0, _) => {
                name.clear();
                None
            }
            (4, _) if !name.is_empty() => {
                variant = word(trimmed.strip_prefix("pub ").unwrap_or(trimmed));
                Some((name.clone(), variant.clone(), String::new()))
            }
            (8, _) if !name.is_empty() && !variant.is_empty() => {
                Some((name.clone(), variant.clone(), word(trimmed)))
            }
            _ => None,
        };
        let text = std::mem::take(&mut comment);
        if let Some(key) = key.filter(|_| !text.is_empty()) {
            comments.insert(key, plain(&text));
        }
    }
}

/// Without links, and in one cell of a table.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("[`") {
        out.push_str(before);
        let (link, after) = after.split_once("`]").unwrap_or((after, ""));
        let shown = link.trim_start_matches("Self::").trim_start_matches("crate::");
        out.push_str(&format!("`{shown}`"));
        rest =
            after.strip_prefix('(').and_then(|after| after.split_once(')')).map_or(after, |(_, after)| after);
    }
    out.push_str(rest);
    out.replace('|', "\\|")
}
