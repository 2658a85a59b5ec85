//! What a mistyped word may have meant.

/// The word most like this one, if one is.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distances = known.into_iter().map(|known| (strsim::damerau_levenshtein(known, word), known));
    let far = (word.chars().count() / 2).clamp(1, 3);
    distances.min().filter(|(distance, _)| *distance <= far).map(|(_, known)| known)
}

/// `did you mean x?`, or something else to do.
pub fn remedy<'a>(word: &str, known: impl IntoIterator<Item = &'a str>, otherwise: &str) -> String {
    nearest(word, known).map_or_else(|| otherwise.into(), |known| format!("did you mean {known}?"))
}
