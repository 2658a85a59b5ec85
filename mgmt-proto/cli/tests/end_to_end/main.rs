//! The library and the program against nodes in this process: the protocol's own
//! server over a real socket, with guests that are only names.

#[cfg(test)]
mod disks;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod many;
#[cfg(test)]
mod one;
#[cfg(test)]
mod screen;
#[cfg(test)]
mod shapes;
#[cfg(test)]
mod state;
#[cfg(test)]
mod stranger;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod watch;
