//! Which vendor's machine this program runs on.

/// The machine of the processors this program runs on.
pub(crate) type Host = crate::svm::Svm;
