//! The definition block: PCI root, serial port, power button.
//!
//! Spec: ACPI 6.4, sections 5.6.9 (generic event device), 4.8.3.1.1.2 (control
//! method power button), 7.4.2 (sleep states); PCI Firmware 3.2, section 4.
//!
//! A hardware-reduced platform has no fixed power button. The press arrives as an
//! edge on [`EVENT_PIN`], the event device's method passes it on to the button.

use alloc::vec::Vec;

use hv_x86::low32;

use super::aml::{
    bus_numbers, device, edge_interrupt, fixed_memory, integer, memory_window, method, name, notify, package,
    pnp_id, ports, resources, scope, string, terms,
};
use crate::layout::{
    ECAM_BYTES, ECAM_START, EVENT_PIN, PCI_ADDRESS_PORT, PCI_WINDOW_END, PCI_WINDOW_START,
    SLEEP_CONTROL_PORT, SLEEP_TYPE_OFF, UART_PIN, UART_PORT,
};

const HARDWARE_ID: [u8; 4] = *b"_HID";
const UNIQUE_ID: [u8; 4] = *b"_UID";
const RESOURCES: [u8; 4] = *b"_CRS";

/// The block's terms, without the table header.
pub(super) fn body() -> Vec<u8> {
    let pci = device(
        *b"PCI0",
        &[
            name(HARDWARE_ID, &pnp_id(0x0a08)),
            name(*b"_CID", &pnp_id(0x0a03)),
            name(UNIQUE_ID, &integer(0)),
            name(*b"_SEG", &integer(0)),
            name(*b"_BBN", &integer(0)),
            name(
                RESOURCES,
                &resources(&[
                    bus_numbers(0, 0),
                    ports(PCI_ADDRESS_PORT, 8),
                    memory_window(low32(PCI_WINDOW_START), low32(PCI_WINDOW_END - 1)),
                ]),
            ),
        ],
    );
    // PCI Firmware 4.1.2: configuration space is claimed by the motherboard.
    let board = device(
        *b"MBRD",
        &[
            name(HARDWARE_ID, &pnp_id(0x0c02)),
            name(UNIQUE_ID, &integer(0)),
            name(
                RESOURCES,
                &resources(&[
                    fixed_memory(low32(ECAM_START), low32(ECAM_BYTES)),
                    ports(SLEEP_CONTROL_PORT, 8),
                ]),
            ),
        ],
    );
    let serial = device(
        *b"COM1",
        &[
            name(HARDWARE_ID, &pnp_id(0x0501)),
            name(UNIQUE_ID, &integer(0)),
            name(RESOURCES, &resources(&[ports(UART_PORT, 8), edge_interrupt(UART_PIN)])),
        ],
    );
    let button = device(*b"PWRB", &[name(HARDWARE_ID, &pnp_id(0x0c0c)), name(UNIQUE_ID, &integer(0))]);
    let events = device(
        *b"GED_",
        &[
            name(HARDWARE_ID, &string("ACPI0013")),
            name(UNIQUE_ID, &integer(0)),
            name(RESOURCES, &resources(&[edge_interrupt(EVENT_PIN)])),
            method(*b"_EVT", 1, &[notify(*b"_SB_", *b"PWRB", 0x80)]),
        ],
    );
    let off = integer(u64::from(SLEEP_TYPE_OFF));
    terms(&[
        scope(*b"_SB_", &[pci, board, serial, button, events]),
        name(*b"_S5_", &package(&[off.clone(), off, integer(0), integer(0)])),
    ])
}
