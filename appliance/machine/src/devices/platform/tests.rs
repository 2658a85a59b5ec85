use alloc::vec;
use alloc::vec::Vec;

use hv_x86::low16;

use super::*;
use crate::devices::output_ring::OutputRing;
use crate::devices::virtio::block::BlockGeometry;
use crate::devices::virtio::registers;
use crate::devices::virtio::test_driver::{bring_up, ecam};
use crate::guest_memory::FakeMemory;
use crate::test_random::TestRandom;

fn devices() -> Vec<DeviceConfig> {
    vec![
        DeviceConfig::Block(BlockConfig {
            geometry: BlockGeometry::default(),
            sectors: 8,
            read_only: false,
            discard: false,
            serial: b"root".to_vec(),
        }),
        DeviceConfig::Net { mac: [2, 0, 0, 0, 0, 1], mtu: 1500 },
        DeviceConfig::Console,
        DeviceConfig::Rng,
    ]
}

fn cf8(platform: &mut Platform, device: u32, function: u32, register: u32) -> u32 {
    platform.port_write(0xcf8, 4, 0x8000_0000 | (device << 11) | (function << 8) | register);
    platform.port_read(0xcfc, 4)
}

#[test]
fn both_configuration_mechanisms_find_the_same_devices() {
    let mut platform = Platform::new(&devices());
    // Linux's check for mechanism 1.
    platform.port_write(0xcfb, 1, 1);
    platform.port_write(0xcf8, 4, 0x8000_0000);
    assert_eq!(platform.port_read(0xcf8, 4), 0x8000_0000);
    let mut found = Vec::new();
    for device in 0..32 {
        for function in 0..8 {
            let identity = cf8(&mut platform, device, function, 0);
            let at = 0xe000_0000 + u64::from((device << 15) | (function << 12));
            assert_eq!(platform.mmio_read(at, 4), u64::from(identity));
            if identity != 0xffff_ffff {
                found.push(identity);
                for register in (0..0x100).step_by(4) {
                    let by_port = cf8(&mut platform, device, function, register);
                    assert_eq!(platform.mmio_read(at + u64::from(register), 4), u64::from(by_port));
                }
                assert_eq!(platform.mmio_read(at + 0x100, 4), 0, "no extended capability");
            }
        }
    }
    assert_eq!(found, [0x0008_1b36, 0x1042_1af4, 0x1041_1af4, 0x1043_1af4, 0x1044_1af4]);
    // Parts of a register, and another bus.
    cf8(&mut platform, 1, 0, 0);
    assert_eq!((platform.port_read(0xcfe, 2), platform.port_read(0xcff, 1)), (0x1042, 0x10));
    assert_eq!(platform.port_read(0xcfd, 4), 0xffff_ffff, "across registers");
    platform.port_write(0xcf8, 4, 0x8001_0000);
    assert_eq!(platform.port_read(0xcfc, 4), 0xffff_ffff);
    platform.port_write(0xcf8, 4, 0);
    assert_eq!(platform.port_read(0xcfc, 4), 0xffff_ffff);
}

#[test]
fn every_device_comes_up_and_interrupts() {
    let mut platform = Platform::new(&devices());
    let memory = FakeMemory::new(4 << 20, 0);
    for device in 0..4 {
        let driver = bring_up(&mut platform, device, 0);
        assert_ne!(driver.features & (1 << 32), 0);
        for queue in 0..u16::try_from(driver.rings.len()).unwrap() {
            let event = PlatformEvent::Queue { device, queue };
            assert_eq!(driver.notify(&mut platform, queue), Some(event));
        }
    }
    let mut rng = bring_up(&mut platform, 3, 0);
    rng.rings[0].push(&memory, &[(0x9_0000, 8, true)]);
    let device = platform.rng_mut(3).unwrap();
    assert_eq!(device.fill(&memory, &mut |bytes| bytes.fill(6)), 8);
    assert_eq!(device.fill(&memory, &mut |_| unreachable!()), 0);
    assert_eq!(memory.bytes(0x9_0000, 9), [6, 6, 6, 6, 6, 6, 6, 6, 0]);
    assert_eq!(platform.next_interrupt().unwrap().data, 0x30 + 3 * 8 + 1);
}

#[test]
fn console_moves_bytes_both_ways() {
    let mut platform = Platform::new(&devices());
    let memory = FakeMemory::new(4 << 20, 0);
    let mut driver = bring_up(&mut platform, 2, 0);
    memory.put(0x9_0000, b"login: ");
    driver.rings[1].push(&memory, &[(0x9_0000, 7, false)]);
    driver.rings[0].push(&memory, &[(0x9_1000, 3, true)]);
    let console = platform.console_mut(2).unwrap();
    let mut output = OutputRing::new(64);
    assert_eq!(console.push_input(b"root\n"), 5);
    assert!(!console.poll(&memory, &mut output));
    let mut text = [0; 16];
    assert_eq!(output.read(0, &mut text), (7, 7));
    assert_eq!(text[..7], *b"login: ");
    assert_eq!(memory.bytes(0x9_1000, 4), *b"roo\0");
    driver.rings[0].push(&memory, &[(0x9_1000, 64, true)]);
    platform.console_mut(2).unwrap().poll(&memory, &mut output);
    assert_eq!(memory.bytes(0x9_1000, 3), *b"t\no");
    assert_eq!(driver.rings[0].take_used(&memory), Some((0, 3)));
    assert_eq!(driver.rings[0].take_used(&memory), Some((1, 2)));
    let console = platform.console_mut(2).unwrap();
    assert_eq!(console.push_input(&[0; 5000]), 4096, "bounded");
}

#[test]
fn doorbells_follow_the_windows() {
    let mut platform = Platform::new(&devices());
    assert!(platform.take_doorbells_changed());
    assert!(!platform.take_doorbells_changed());
    assert_eq!(platform.doorbells().count(), 0, "nothing is decoded");
    for device in 0..4 {
        platform.mmio_write(ecam(device) + 4, 2, 6);
    }
    assert!(platform.take_doorbells_changed());
    let doorbells: Vec<_> = platform.doorbells().collect();
    let queues: Vec<_> = doorbells.iter().map(|bell| (bell.index, bell.device, bell.queue)).collect();
    assert_eq!(queues, [(0, 0, 0), (1, 1, 0), (2, 1, 1), (3, 2, 0), (4, 2, 1), (5, 3, 0)]);
    assert_eq!((doorbells[2].gpa, doorbells[2].width), (0xc000_5004, 2));
    for bell in &doorbells {
        let event = Some(PlatformEvent::Queue { device: bell.device, queue: bell.queue });
        assert_eq!(platform.doorbell(bell.index), event);
        assert_eq!(platform.mmio_write(bell.gpa, 2, u64::from(bell.queue)), event);
    }
    assert_eq!(platform.doorbell(6), None);
    // Reprogrammed: the numbers stay, the addresses move.
    platform.mmio_write(ecam(1) + 0x10, 4, 0xd000_0000);
    assert!(platform.take_doorbells_changed());
    assert_eq!(platform.doorbells().nth(2).unwrap().gpa, 0xd000_1004);
    // Over RAM nothing may be watched.
    platform.mmio_write(ecam(1) + 0x10, 4, 0x1000_0000);
    assert_eq!((platform.doorbells().count(), platform.doorbell_count()), (4, 6));
}

#[test]
fn refused_negotiation_does_not_start_a_device() {
    let mut platform = Platform::new(&devices());
    platform.mmio_write(ecam(0) + 4, 2, 6);
    let bar = platform.mmio_read(ecam(0) + 0x10, 4);
    for (low, high) in [(0, 0), (1 << 5, 1), (1, 1), (0, 3)] {
        platform.mmio_write(bar + 0x14, 1, 0);
        platform.mmio_write(bar + 0x14, 1, 3);
        platform.mmio_write(bar + 8, 4, 0);
        platform.mmio_write(bar + 12, 4, low);
        platform.mmio_write(bar + 8, 4, 1);
        platform.mmio_write(bar + 12, 4, high);
        platform.mmio_write(bar + 0x14, 1, 0xb);
        assert_eq!(platform.mmio_read(bar + 0x14, 1), 3, "{low:x} {high:x}");
        platform.mmio_write(bar + 0x14, 1, 0xf);
        assert_eq!(platform.mmio_read(bar + 0x14, 1), 3);
    }
    // A queue that cannot be: the device says so.
    platform.mmio_write(bar + 0x20, 4, 8);
    platform.mmio_write(bar + 0x1c, 2, 1);
    assert_eq!(platform.mmio_read(bar + 0x1c, 2), 0);
    assert_eq!(platform.mmio_read(bar + 0x14, 1), 0x43);
}

#[test]
fn configuration_access_capability_reaches_the_window() {
    let mut platform = Platform::new(&devices());
    let config = ecam(0);
    platform.mmio_write(config + u64::from(registers::WINDOW_OFFSET), 4, 0x12);
    platform.mmio_write(config + u64::from(registers::WINDOW_LENGTH), 4, 2);
    assert_eq!(platform.mmio_read(config + u64::from(registers::WINDOW_DATA), 2), 1, "one queue");
    platform.mmio_write(config + u64::from(registers::WINDOW_OFFSET), 4, u64::from(registers::NOTIFY));
    let event = platform.mmio_write(config + u64::from(registers::WINDOW_DATA), 2, 0);
    assert_eq!(event, Some(PlatformEvent::Queue { device: 0, queue: 0 }));
    platform.mmio_write(config + u64::from(registers::WINDOW_OFFSET), 4, 0xffff_fffe);
    assert_eq!(platform.mmio_read(config + u64::from(registers::WINDOW_DATA), 2), 0);
}

#[test]
fn power_and_reset_registers_become_events() {
    let mut platform = Platform::new(&[]);
    assert_eq!(platform.port_write(0x600, 1, 0x34), Some(PlatformEvent::PowerOff));
    assert_eq!(platform.port_write(0x600, 1, 0x14), None, "not enabled");
    assert_eq!(platform.port_write(0x600, 1, 0x2c), None, "another sleep state");
    assert_eq!(platform.port_write(0x604, 1, 6), Some(PlatformEvent::Reset));
    assert_eq!(platform.port_write(0x604, 1, 7), None);
    assert_eq!(platform.port_write(0xcf9, 1, 6), Some(PlatformEvent::Reset));
    assert_eq!(platform.port_write(0xcf9, 1, 2), None);
    // Whatever other lines are pulsed with line 0.
    for command in [0xfe, 0xf0, 0xfc] {
        assert_eq!(platform.port_write(0x64, 1, command), Some(PlatformEvent::Reset));
    }
    assert_eq!(platform.port_write(0x64, 1, 0xff), None, "no line at all");
    for port in [0x600, 0x601, 0x604, 0x64] {
        assert_eq!(platform.port_read(port, 1), 0);
    }
    assert_eq!(platform.unclaimed(), UnclaimedCounters::default());
}

#[test]
fn a_guest_that_tried_to_reset_is_known_for_it() {
    for (port, size, value) in [(0x604, 1, 7), (0xcf9, 1, 2), (0xcf9, 2, 6), (0x64, 1, 0xff), (0x64, 2, 0xfe)]
    {
        let mut platform = Platform::new(&[]);
        platform.port_write(0x64, 1, 0xd1);
        platform.port_write(0x600, 1, 0x2c);
        assert!(!platform.reset_tried());
        assert_eq!(platform.port_write(port, size, value), None);
        assert!(platform.reset_tried(), "{port:#x}");
        platform.power_on();
        assert!(!platform.reset_tried());
    }
}

#[test]
fn a_panic_is_told_and_a_dump_once() {
    let mut platform = Platform::new(&[]);
    assert_eq!(platform.port_read(0x505, 1), 3);
    let dumps = Some(PlatformEvent::Panicked { goes_on: true });
    assert_eq!(platform.port_write(0x505, 1, 4), None, "no bit of ours");
    assert_eq!(platform.port_write(0x505, 1, 2), dumps);
    assert_eq!(platform.port_write(0x505, 1, 2), None);
    for value in [1, 3, 0xff] {
        let panicked = Some(PlatformEvent::Panicked { goes_on: false });
        assert_eq!(platform.port_write(0x505, 1, value), panicked);
    }
    platform.power_on();
    assert_eq!(platform.port_write(0x505, 1, 2), dumps);
}

#[test]
fn unknown_places_read_as_ones_and_are_counted() {
    let mut platform = Platform::new(&[]);
    assert_eq!(platform.port_read(0x70, 1), 0xff);
    assert_eq!(platform.port_read(0x1f0, 2), 0xffff);
    assert_eq!(platform.port_write(0x80, 1, 0), None);
    assert_eq!(platform.mmio_read(0xd000_0000, 4), 0xffff_ffff);
    assert_eq!(platform.mmio_read(0xfed0_0000, 8), u64::MAX);
    assert_eq!(platform.mmio_write(0xfed0_0000, 8, 0), None);
    assert_eq!(platform.unclaimed(), UnclaimedCounters { ports: 3, memory: 3 });
}

#[test]
fn power_button_and_serial_port_use_their_pins() {
    let mut platform = Platform::new(&[]);
    for (pin, vector) in [(EVENT_PIN, 0x41), (UART_PIN, 0x42)] {
        platform.mmio_write(IOAPIC_START, 4, 0x10 + u64::from(pin) * 2);
        platform.mmio_write(IOAPIC_START + 0x10, 4, vector);
    }
    platform.press_power_button();
    let message = platform.next_interrupt().unwrap();
    assert_eq!((message.address, message.data), (0xfee0_0000, 0x41));
    assert_eq!(platform.next_interrupt(), None);
    platform.port_write(0x3fc, 1, 8);
    platform.port_write(0x3f9, 1, 1);
    assert_eq!(platform.push_uart_input(b"ab"), 2);
    assert_eq!(platform.next_interrupt().unwrap().data, 0x42);
    assert_eq!(platform.next_interrupt(), None, "an edge, not a level");
    platform.port_read(0x3f8, 1);
    platform.port_read(0x3f8, 1);
    assert_eq!(platform.push_uart_input(b"c"), 1);
    assert_eq!(platform.next_interrupt().unwrap().data, 0x42);
}

#[test]
fn reboot_is_power_on_with_the_console_kept() {
    let mut platform = Platform::new(&devices());
    let fresh = platform.clone();
    bring_up(&mut platform, 0, 0);
    platform.port_write(0x3f8, 1, u32::from(b'x'));
    platform.power_on();
    assert_eq!(platform.uart.output.end(), 1);
    platform.uart.output = fresh.uart.output.clone();
    // The generation keeps operations from before the reboot away.
    let block = platform.block_mut(0).unwrap();
    assert_eq!(block.in_flight(), 0);
    assert_eq!(block.transport, fresh.clone().block_mut(0).unwrap().transport);
    assert_eq!(platform.pci.devices[1..], fresh.pci.devices[1..]);
}

#[test]
fn states_of_other_versions_are_refused() {
    let platform = Platform::new(&devices());
    let mut state = platform.export();
    assert_eq!(Platform::from_state(state.clone()), Ok(platform));
    state.version = 4;
    assert_eq!(Platform::from_state(state), Err(UnknownStateVersion(4)));
}

/// What the hypervisor keeps for dom0 across its restart has to suffice, even
/// with every descriptor of two disks in flight.
#[test]
fn states_survive_their_wire_format_and_the_compact_one_is_small() {
    let mut configs = devices();
    configs.push(configs[0].clone());
    let mut platform = Platform::new(&configs);
    let memory = FakeMemory::new(4 << 20, 0);
    for disk in [0, 4] {
        let mut driver = bring_up(&mut platform, disk, 0);
        for _ in 0..21 {
            driver.rings[0]
                .push(&memory, &[(0x9_0000, 16, false), (0x9_1000, 512, true), (0x9_2000, 1, true)]);
        }
        let block = platform.block_mut(disk).unwrap();
        while block.next_operation(&memory).is_some() {}
        assert_eq!(block.in_flight(), 21);
    }
    for state in [platform.export(), platform.export_compact()] {
        let bytes = postcard::to_allocvec(&state).unwrap();
        let back: PlatformState = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(back, state);
    }
    let compact = postcard::to_allocvec(&platform.export_compact()).unwrap();
    assert!(compact.len() < hv_abi::STORE_BYTES / 4, "{} bytes", compact.len());
    // Cut or altered, a state is refused or at least harmless.
    for seed in 1..500u64 {
        let mut random = TestRandom(seed * 0x2545_f491);
        let mut bytes = compact.clone();
        let at = random.index(bytes.len());
        bytes[at] = random.byte();
        bytes.truncate(1 + random.index(bytes.len() * 2).min(bytes.len() - 1));
        let Ok(state) = postcard::from_bytes::<PlatformState>(&bytes) else { continue };
        let Ok(mut platform) = Platform::from_state(state) else { continue };
        for disk in [0, 4] {
            if let Some(block) = platform.block_mut(disk) {
                block.reissue_in_flight(&memory);
                while let Some(operation) = block.next_operation(&memory) {
                    block.complete(operation.token, crate::devices::virtio::block::BlockStatus::Ok, &memory);
                }
            }
        }
    }
}

/// A guest that scribbles over ports, PCI space, registers and memory.
#[test]
fn random_guests_never_panic() {
    for seed in 1..150u64 {
        let mut random = TestRandom(seed * 0x51_7cc1_b727);
        let mut platform = Platform::new(&devices());
        let memory = FakeMemory::new(4 << 20, 0);
        for device in 0..4 {
            let mut driver = bring_up(&mut platform, device, 0);
            for ring in &mut driver.rings {
                for _ in 0..random.below(8) {
                    ring.push(&memory, &[(random.below(5 << 20), 40, false), (0x9_0000, 40, true)]);
                }
            }
        }
        let mut frame = [0; 1600];
        for step in 0..300 {
            let size = [1, 2, 4, 8][random.index(4)];
            let value = if random.below(2) == 0 { random.next() } else { random.below(16) };
            match random.below(8) {
                0 => drop(platform.port_write(low16(random.next()), size.min(4), low32(value))),
                1 => drop(platform.port_read(0xcf8 + low16(random.below(8)), size.min(4))),
                2 => drop(platform.mmio_write(0xc000_0000 + random.below(0x1_1000), size, value)),
                3 => drop(platform.mmio_read(0xc000_0000 + random.below(0x1_1000), size)),
                4 => drop(platform.mmio_write(0xe000_0000 + random.below(6 << 15), size, value)),
                5 => drop(platform.mmio_read(0xe000_0000 + random.below(1 << 20), size)),
                6 => drop(platform.mmio_write(0xfec0_0000 + random.below(0x20), size, value)),
                _ => memory.put(0x10_0000 + random.below(0x10_0000), &[random.byte()]),
            }
            if step % 10 == 0 {
                while platform.block_mut(0).unwrap().next_operation(&memory).is_some() {}
                while platform.net_mut(1).unwrap().pop_transmit(&memory, &mut frame).is_some() {}
                platform.net_mut(1).unwrap().push_receive(&memory, &frame[..60], [0; 12]);
                platform.console_mut(2).unwrap().push_input(b"x");
                platform.console_mut(2).unwrap().poll(&memory, &mut OutputRing::new(64));
                while platform.rng_mut(3).unwrap().fill(&memory, &mut |bytes| bytes.fill(1)) != 0 {}
            }
            let interrupts = core::iter::from_fn(|| platform.next_interrupt()).count();
            assert!(interrupts <= 64, "seed {seed}");
            assert!(platform.doorbells().count() <= 6, "seed {seed}");
        }
    }
}
