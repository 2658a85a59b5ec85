//! The definition block: PCI root, serial port, power button, panic port.
//!
//! Spec: ACPI 6.4, sections 5.6.9 (generic event device), 4.8.3.1.1.2 (control
//! method power button), 7.4.2 (sleep states); PCI Firmware 3.2, section 4.
//!
//! A hardware-reduced platform has no fixed power button. The press arrives as an
//! edge on [`EVENT_PIN`], the event device's method passes it on to the button.
//!
//! Disks come and go by an edge on [`HOT_PLUG_PIN`]: the method looks what is wanted
//! and has the guest look at the bus again (a bus check, 5.6.6), or asks it to give a
//! slot back (an eject request). What it gives back it says by `_EJ0` (6.3.3).

use alloc::vec::Vec;

use hv_x86::low32;

use super::aml::{
    ARGUMENT_0, LOCAL_0, Term, bus_numbers, call, device, edge_interrupt, fixed_memory, if_any, if_equal,
    integer, memory_window, method, name, notify, notify_near, package, pnp_id, port_region, ports,
    resources, scope, store, store_name, string, terms, words,
};
use crate::layout::{
    ECAM_BYTES, ECAM_START, EVENT_PIN, HOT_PLUG_PIN, HOT_PLUG_RESCAN_PORT, HOT_PLUG_SLOTS, PANIC_PORT,
    PCI_ADDRESS_PORT, PCI_WINDOW_END, PCI_WINDOW_START, SLEEP_CONTROL_PORT, SLEEP_TYPE_OFF, UART_PIN,
    UART_PORT,
};

const BUS_CHECK: u8 = 0;
const EJECT_REQUEST: u8 = 3;

const HARDWARE_ID: [u8; 4] = *b"_HID";
const UNIQUE_ID: [u8; 4] = *b"_UID";
const RESOURCES: [u8; 4] = *b"_CRS";

/// The name of a slot's device.
fn slot_name(slot: u32) -> [u8; 4] {
    let digit = |value: u32| b'0' + hv_x86::low8(u64::from(value % 10));
    [b'S', digit(slot / 10), digit(slot), b'_']
}

/// The slots that disks come to and go from, and the method that looks at them.
fn slots() -> Vec<Term> {
    let mut all =
        [port_region(*b"PCST", HOT_PLUG_RESCAN_PORT, 12), words(*b"PCST", &[*b"PCIU", *b"PCID", *b"PCEJ"])]
            .to_vec();
    let mut look = [
        store_name(*b"PCIU", LOCAL_0),
        if_any(LOCAL_0, 1, &[notify(*b"_SB_", *b"PCI0", BUS_CHECK)]),
        store_name(*b"PCID", LOCAL_0),
    ]
    .to_vec();
    for slot in 1..=HOT_PLUG_SLOTS {
        let bit = 1 << slot;
        all.push(device(
            slot_name(slot),
            &[
                name(*b"_ADR", &integer(u64::from(slot) << 16)),
                name(*b"_SUN", &integer(u64::from(slot))),
                method(*b"_EJ0", 1, &[store(bit, *b"PCEJ")]),
            ],
        ));
        look.push(if_any(LOCAL_0, bit, &[notify_near(slot_name(slot), EJECT_REQUEST)]));
    }
    all.push(method(*b"PCNT", 0, &look));
    all
}

/// Where the guest's kernel says that it has panicked, by the identifier under which drivers
/// look for it (QEMU, specs/pvpanic).
fn panic_port() -> Term {
    device(
        *b"PEVT",
        &[
            name(HARDWARE_ID, &string("QEMU0001")),
            name(UNIQUE_ID, &integer(0)),
            // Present, enabled, shown, working (6.3.7).
            name(*b"_STA", &integer(0x0f)),
            name(RESOURCES, &resources(&[ports(PANIC_PORT, 1)])),
        ],
    )
}

/// The block's terms, without the table header.
pub(super) fn body() -> Vec<u8> {
    let pci = device(
        *b"PCI0",
        &[
            terms(&slots()),
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
                    ports(HOT_PLUG_RESCAN_PORT, 12),
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
            name(RESOURCES, &resources(&[edge_interrupt(EVENT_PIN), edge_interrupt(HOT_PLUG_PIN)])),
            method(
                *b"_EVT",
                1,
                &[if_equal(
                    ARGUMENT_0,
                    u64::from(HOT_PLUG_PIN),
                    &[call([*b"_SB_", *b"PCI0", *b"PCNT"])],
                    &[notify(*b"_SB_", *b"PWRB", 0x80)],
                )],
            ),
        ],
    );
    let off = integer(u64::from(SLEEP_TYPE_OFF));
    terms(&[
        scope(*b"_SB_", &[pci, board, serial, panic_port(), button, events]),
        name(*b"_S5_", &package(&[off.clone(), off, integer(0), integer(0)])),
    ])
}
