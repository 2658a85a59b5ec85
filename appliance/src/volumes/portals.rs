//! The portals and targets that the node uses.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use storage::iscsi::Session;
use storage::volume::Volume;

use crate::volumes::Volumes;

impl Volumes {
    /// The addresses of all portals that a volume in use has, whether one is connected or
    /// not.
    pub fn portals(&self) -> Vec<Ipv4Addr> {
        let mut all = Vec::new();
        for volume in self.in_use() {
            let Volume::Iscsi(session) = volume else { continue };
            for address in addresses(session) {
                if !all.contains(&address) {
                    all.push(address);
                }
            }
        }
        all
    }

    /// Whether an AoE target that is in use answers from a station.
    pub fn is_target(&self, mac: [u8; 6]) -> bool {
        self.in_use().any(|volume| match volume {
            Volume::Aoe(target) => target.macs().any(|it| it == mac),
            Volume::Iscsi(_) => false,
        })
    }

    fn in_use(&self) -> impl Iterator<Item = &Volume> {
        let guests = self.bindings.iter().map(|binding| &binding.volume);
        let closing = self.closing.iter().map(|closing| &closing.volume);
        let state = self.state.as_ref().and_then(|state| state.volume());
        guests.chain(closing).chain(state)
    }
}

fn addresses(session: &Session) -> impl Iterator<Item = Ipv4Addr> {
    (0..session.paths()).filter_map(|path| Some(session.portal(path)?.address))
}
