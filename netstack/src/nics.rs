//! Drivers of network cards, one module each, over the handles of [`hv_abi::device`].

pub mod virtio_net;
