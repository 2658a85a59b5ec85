//! The tables of PROTOCOL.md are what the types are.

#[cfg(test)]
mod comments;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod tracer;
