//! What guests' cards may, for vectors.

use alloc::string::ToString as _;
use alloc::vec;

use crate::bundle::Scope;
use crate::vif::{CardGrant, Privileges};

pub(super) fn privileges() -> Privileges {
    Privileges {
        macs: 8,
        vrrp: vec![51],
        router: true,
        dhcp_server: false,
        trunk: vec![300],
        management: true,
    }
}

pub(super) fn grant() -> CardGrant {
    let guests = Scope::Named(vec!["fw*".to_string()]);
    CardGrant { nodes: Scope::All, guests, privileges: privileges() }
}
