//! The portals that the node uses.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use storage::iscsi::Session;
use storage::volume::Volume;

use super::Volumes;

impl Volumes {
    /// The addresses of all portals that a volume in use has, whether one is connected or
    /// not.
    pub fn portals(&mut self) -> Vec<Ipv4Addr> {
        let guests = self.bindings.iter().map(|binding| &binding.volume);
        let closing = self.closing.iter().map(|closing| &closing.volume);
        let state = self.state.as_mut().and_then(|state| state.session()).map(|(volume, _)| &*volume);
        let mut all = Vec::new();
        for volume in guests.chain(closing).chain(state) {
            let Volume::Iscsi(session) = volume else { continue };
            for address in addresses(session) {
                if !all.contains(&address) {
                    all.push(address);
                }
            }
        }
        all
    }
}

fn addresses(session: &Session) -> impl Iterator<Item = Ipv4Addr> {
    (0..session.paths()).filter_map(|path| Some(session.portal(path)?.address))
}
