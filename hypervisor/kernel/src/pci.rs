//! PCI configuration for dom0, through the ports.
//!
//! Spec: PCI Local Bus 3.0, 3.2.2.3.2.

use crate::raw::Ports;
use crate::watch::Mutex;
use hv_abi::call::Error;

/// Address and data.
// SAFETY: ports with that meaning on every PC. What devices do is for dom0 to decide, which
// they serve.
static PORTS: Mutex<Ports> = Mutex::new(unsafe { Ports::new(0xcf8, 8) });

fn select(function: u64, offset: u64, width: u64) -> Result<(u32, u16, u8), Error> {
    let function =
        u32::try_from(function).ok().filter(|function| *function <= 0xffff).ok_or(Error::Argument)?;
    let offset = u32::try_from(offset).ok().filter(|offset| *offset < 256).ok_or(Error::Argument)?;
    let width = u8::try_from(width).ok().filter(|width| matches!(width, 1 | 2 | 4)).ok_or(Error::Argument)?;
    if !offset.is_multiple_of(u32::from(width)) {
        return Err(Error::Argument);
    }
    let port = 4 + hv_x86::low16(u64::from(offset & 3));
    Ok((1 << 31 | function << 8 | offset & 0xfc, port, width))
}

/// Reads; all ones where there is no function.
pub(crate) fn read(function: u64, offset: u64, width: u64) -> Result<u64, Error> {
    let (address, port, width) = select(function, offset, width)?;
    let ports = PORTS.lock();
    ports.write(0, 4, address);
    Ok(u64::from(ports.read(port, width)))
}

/// Writes.
pub(crate) fn write(function: u64, offset: u64, width: u64, value: u64) -> Result<(), Error> {
    let (address, port, width) = select(function, offset, width)?;
    let ports = PORTS.lock();
    ports.write(0, 4, address);
    ports.write(port, width, hv_x86::low32(value));
    Ok(())
}
