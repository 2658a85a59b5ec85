use super::{Address, Effect, Lapic, Message, Now};
use crate::clock::{GuestTsc, Scale};
use hv_x86::apic as register;

fn now(ns: u64) -> Now {
    Now { ns, tsc: GuestTsc(ns * 2), scale: Scale::new(2_000_000) }
}

fn enabled(id: u32) -> Lapic {
    let mut lapic = Lapic::new(id);
    lapic.write_page(register::SVR, 0x1ff, &now(0));
    lapic
}

#[test]
fn priorities() {
    let mut lapic = enabled(0);
    lapic.request(0x31);
    lapic.request(0x62);
    assert_eq!(lapic.pending(), Some(0x62));
    lapic.accept(0x62);
    assert_eq!(lapic.pending(), None, "0x31 is of lower class than what is in service");
    lapic.write_page(register::EOI, 0, &now(0));
    assert_eq!(lapic.pending(), Some(0x31));
    lapic.set_task_priority_class(3);
    assert_eq!(lapic.pending(), None);
    lapic.request(5);
    lapic.set_task_priority_class(0);
    lapic.accept(0x31);
    lapic.write_page(register::EOI, 0, &now(0));
    assert_eq!(lapic.pending(), None, "vectors below 16 are not deliverable");
}

#[test]
fn what_was_not_taken_waits_again() {
    let mut lapic = enabled(0);
    lapic.request(0x31);
    lapic.accept(0x31);
    lapic.request(0x62);
    lapic.take_back(0x31);
    assert_eq!(lapic.pending(), Some(0x62), "the higher one goes first now");
    lapic.accept(0x62);
    lapic.write_page(register::EOI, 0, &now(0));
    assert_eq!(lapic.pending(), Some(0x31));
}

#[test]
fn deadline_timer() {
    let mut lapic = enabled(0);
    lapic.write_page(register::LVT_TIMER, register::LVT_TIMER_DEADLINE | 0xec, &now(0));
    lapic.set_tsc_deadline(2000, &now(500));
    assert_eq!(lapic.next_deadline_ns(), Some(1000));
    lapic.advance(999);
    assert_eq!(lapic.pending(), None);
    lapic.advance(1000);
    assert_eq!(lapic.pending(), Some(0xec));
    assert_eq!((lapic.tsc_deadline(), lapic.next_deadline_ns()), (0, None));
}

#[test]
fn periodic_timer_skips_what_it_missed() {
    let mut lapic = enabled(0);
    lapic.write_page(register::LVT_TIMER, register::LVT_TIMER_PERIODIC | 0x40, &now(0));
    lapic.write_page(register::TIMER_DIVIDE, 0xb, &now(0));
    lapic.write_page(register::TIMER_INITIAL, 100, &now(0));
    assert_eq!(lapic.next_deadline_ns(), Some(100));
    assert_eq!(lapic.read_page(register::TIMER_CURRENT, &now(40)), 60);
    lapic.advance(1050);
    assert_eq!(lapic.pending(), Some(0x40));
    assert_eq!(lapic.next_deadline_ns(), Some(1100));
    lapic.write_page(register::TIMER_INITIAL, 0, &now(1060));
    assert_eq!(lapic.next_deadline_ns(), None);
}

#[test]
fn x2apic_is_one_way() {
    let mut lapic = enabled(5);
    let base = lapic.base();
    assert!(lapic.read_x2apic(register::ID, &now(0)).is_err());
    assert!(lapic.set_base(base + 0x1000).is_err());
    lapic.set_base(base | register::BASE_X2APIC).unwrap();
    assert_eq!(lapic.read_x2apic(register::ID, &now(0)), Ok(5));
    assert_eq!(lapic.read_x2apic(register::LDR, &now(0)), Ok(1 << 5));
    assert!(lapic.set_base(base).is_err());
    let sent = lapic.write_x2apic(register::ICR_LOW, 3 << 32 | 0x4031, &now(0)).unwrap();
    let Effect::Send(message) = sent else { panic!("an IPI") };
    assert_eq!((message.vector, message.destination, message.logical), (0x31, 3, false));
    assert!(lapic.write_x2apic(register::SVR, 1 << 40, &now(0)).is_err());
    assert!(lapic.write_x2apic(0x7f0, 0, &now(0)).is_err());
}

#[test]
fn destinations() {
    let mut flat = enabled(1);
    flat.write_page(register::LDR, 0x0200_0000, &now(0));
    let address = Address::unpack(1, flat.address().pack());
    assert_eq!(address, flat.address());
    let message = |destination, logical, shorthand| Message {
        vector: 0x30,
        delivery: 0,
        destination,
        logical,
        shorthand,
    };
    assert!(address.matches(&message(1, false, 0), None));
    assert!(!address.matches(&message(2, false, 0), None));
    assert!(address.matches(&message(0xff, false, 0), None));
    assert!(address.matches(&message(2, true, 0), None));
    assert!(!address.matches(&message(1, true, 0), None));
    assert!(address.matches(&message(0, false, 1), Some(1)));
    assert!(!address.matches(&message(0, false, 3), Some(1)));
    assert!(address.matches(&message(0, false, 3), Some(0)));
    let msi = Message::from_msi(0xfee0_1000, 0x4041);
    assert_eq!((msi.vector, msi.destination, msi.logical, msi.delivery), (0x41, 1, false, 0));
}

#[test]
fn no_register_write_panics() {
    let mut state = 0xdead_beef_1234_5678_u64;
    let mut lapic = enabled(0);
    for round in 0..200_000_u64 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let offset = (state >> 40) as u32 & 0xff0;
        lapic.write_page(offset, state as u32, &now(round));
        let _ = lapic.read_page(offset, &now(round));
        lapic.advance(round);
        if let Some(vector) = lapic.pending() {
            lapic.accept(vector);
        }
        if round == 100_000 {
            lapic.init();
            let _ = lapic.set_base(lapic.base() | register::BASE_X2APIC);
        }
        let _ = lapic.write_x2apic(offset, state >> (state & 63), &now(round));
    }
}

#[test]
fn pv_eoi_is_offered_only_without_waiting_interrupts() {
    let mut lapic = enabled(0);
    assert!(!lapic.may_offer_pv_eoi(), "nothing is in service");
    lapic.request(0x41);
    lapic.accept(0x41);
    assert!(lapic.may_offer_pv_eoi());
    // Of any priority: a lower one can only resume after the end.
    lapic.request(0x31);
    assert!(!lapic.may_offer_pv_eoi());
    lapic.end_of_interrupt();
    assert_eq!(lapic.pending(), Some(0x31));
    lapic.accept(0x31);
    lapic.request(0x61);
    lapic.accept(0x61);
    lapic.end_of_interrupt();
    assert!(lapic.may_offer_pv_eoi(), "0x31 is still in service");
    lapic.end_of_interrupt();
    assert!(!lapic.may_offer_pv_eoi());
}
