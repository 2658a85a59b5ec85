use alloc::vec;

use super::*;
use crate::guest_memory::FakeMemory;
use crate::layout::{ACPI_START, BOOT_PARAMETERS, BOOT_START_INFO};
use crate::mutate::{Random, mutate, wanted};

const MIB: u64 = 1 << 20;

/// A bzImage that says of itself what Debian's say, with a small payload.
fn bzimage(init_bytes: u32) -> Vec<u8> {
    let mut file = vec![0; 5 * 512 + 4096];
    file[0x1f1] = 4;
    file[0x1f4..0x1f8].copy_from_slice(&(4096u32 / 16).to_le_bytes());
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    file[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
    file[0x211] = 1;
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    file[0x236..0x238].copy_from_slice(&0x3fu16.to_le_bytes());
    file[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    file[0x258..0x260].copy_from_slice(&(16 * MIB).to_le_bytes());
    file[0x260..0x264].copy_from_slice(&init_bytes.to_le_bytes());
    file[0x500..0x50d].copy_from_slice(b"6.1.0-test #1");
    file[5 * 512..].fill(0xa5);
    file
}

fn request(kernel: &[u8], memory_bytes: u64, initrd_bytes: u64) -> LoadRequest<'_> {
    LoadRequest {
        kernel,
        initrd_bytes,
        command_line: b"console=hvc0",
        memory: MemoryLayout::new(memory_bytes),
        acpi_root: Gpa(ACPI_START),
    }
}

fn initrd_address(plan: &LoadPlan) -> u64 {
    plan.placements.iter().find(|placement| placement.content == Content::Initrd).unwrap().gpa.0
}

/// Everything a plan places is RAM and apart from everything else.
fn assert_sound(plan: &LoadPlan, request: &LoadRequest<'_>, seed: u64) {
    let mut ranges: Vec<_> = plan
        .placements
        .iter()
        .map(|Placement { gpa, content }| {
            let length = match content {
                Content::Bytes(bytes) => bytes.len() as u64,
                Content::Kernel(range) => range.len() as u64,
                Content::Initrd => request.initrd_bytes,
                Content::Zeroes(length) => *length,
            };
            assert!(request.memory.contains(*gpa, length), "seed {seed}");
            (gpa.0, gpa.0 + length)
        })
        .collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "seed {seed}: {ranges:x?}");
    assert!(ranges.iter().all(|range| range.1 <= 0xa_0000 || range.0 >= EXTENDED_START), "seed {seed}");
}

#[test]
fn kernel_and_parameters_are_where_the_protocol_says() {
    let file = bzimage(32 << 20);
    let request = request(&file, 64 * MIB, 1000);
    let plan = plan(&request).unwrap();
    assert_sound(&plan, &request, 0);
    let memory = FakeMemory::new(64 << 20, 0);
    plan.apply(&memory, &file, &[7; 1000]).unwrap();
    assert_eq!(plan.vcpu.rip, 16 * MIB + 0x200);
    assert_eq!(plan.vcpu.rsi, BOOT_PARAMETERS);
    assert_eq!(memory.bytes(16 * MIB, 4096), vec![0xa5; 4096]);
    let page = memory.bytes(BOOT_PARAMETERS, 4096);
    assert_eq!(page[0x202..0x206], *b"HdrS");
    assert_eq!(page[0x210], 0xff);
    assert_eq!(page[0x70..0x78], ACPI_START.to_le_bytes());
    let initrd = initrd_address(&plan);
    assert_eq!(u64::from(u32::from_le_bytes(page[0x218..0x21c].try_into().unwrap())), initrd);
    assert_eq!(page[0x21c..0x220], 1000u32.to_le_bytes());
    assert_eq!(memory.bytes(initrd, 1000), vec![7; 1000]);
    assert_eq!(memory.bytes(BOOT_COMMAND_LINE, 13), b"console=hvc0\0");
    assert_eq!(page[0x1e8], 8);
    // The memory map's first entry: RAM from 0 to 640 KiB.
    assert_eq!(page[0x2d0..0x2e4], *b"\0\0\0\0\0\0\0\0\0\0\x0a\0\0\0\0\0\x01\0\0\0");
    let gdt = memory.bytes(plan.vcpu.gdt_base + 0x10, 8);
    assert_eq!(gdt, 0x00af_9b00_0000_ffffu64.to_le_bytes());
}

#[test]
fn initrd_goes_high_or_below_the_kernel_never_into_it() {
    let file = bzimage(32 << 20);
    for (memory, initrd, expected) in [
        (5120, 8, 3072 - 8), // XLF: the limit of 2 GiB does not hold
        (64, 16, 48),        // exactly between kernel and end
        (64, 15, 49),
        (48, 15, 1), // no room above: below the kernel
    ] {
        let request = request(&file, memory * MIB, initrd * MIB);
        let plan = plan(&request).unwrap();
        assert_sound(&plan, &request, 0);
        assert_eq!(initrd_address(&plan), expected * MIB);
    }
    let mut limited = file.clone();
    limited[0x236] = 1;
    let old = request(&limited, 5120 * MIB, 8 * MIB);
    assert_eq!(initrd_address(&plan(&old).unwrap()), 2040 * MIB);
    let small = request(&file, 64 * MIB, 17 * MIB);
    let error = plan(&small).unwrap_err();
    assert!(matches!(error, LoadError::Memory { needed, available }
        if needed > 65 * MIB && available == 64 * MIB));
    let smaller = request(&file, 32 * MIB, 0);
    assert_eq!(plan(&smaller), Err(LoadError::Memory { needed: 48 * MIB, available: 32 * MIB }));
}

#[test]
fn what_is_no_kernel_is_refused_by_name() {
    let file = bzimage(32 << 20);
    let info = check(&file).unwrap();
    assert_eq!(info.version.as_deref(), Some("6.1.0-test #1"));
    assert_eq!(info.memory_needed, 48 * MIB);
    assert_eq!(check(b"\x1f\x8b\x08\0"), Err(LoadError::NotAKernel(LooksLike::Gzip)));
    let mut old = file.clone();
    old[0x206] = 0x0b;
    assert_eq!(check(&old), Err(LoadError::Protocol { found: 0x020b, needed: 0x020c }));
    let mut small = file.clone();
    small[0x236] = 0;
    assert_eq!(check(&small), Err(LoadError::Not64Bit));
    assert_eq!(check(&file[..file.len() - 16]), Err(LoadError::Truncated));
    assert_eq!(check(&file[..0x240]), Err(LoadError::Truncated));
    let mut wild = file.clone();
    wild[0x25f] = 0xff;
    assert_eq!(check(&wild), Err(LoadError::Malformed));
    let mut request = request(&file, 64 * MIB, 0);
    let long = [b'a'; 2048];
    request.command_line = &long;
    assert_eq!(plan(&request), Err(LoadError::CommandLine { length: 2048, limit: 2047 }));
    request.command_line = b"a\0b";
    assert!(plan(&request).is_err());
}

/// An ELF kernel with one segment, zeroes behind it, and a PVH note.
fn elf() -> Vec<u8> {
    let mut file = vec![0; 0x200];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[18] = 62;
    file[32] = 64;
    file[54] = 56;
    file[56] = 2;
    let mut header = |at: usize, fields: [u64; 6]| {
        file[at..at + 4].copy_from_slice(&fields[0].to_le_bytes()[..4]);
        for (offset, field) in [8, 16, 24, 32, 40].into_iter().zip(&fields[1..]) {
            file[at + offset..at + offset + 8].copy_from_slice(&field.to_le_bytes());
        }
    };
    header(64, [1, 0x180, 0, 0x100_0000, 0x80, 0x2000]);
    header(120, [4, 0x100, 0, 0, 0x28, 0x28]);
    file[0x100..0x128].copy_from_slice(
        b"\x04\0\0\0\x04\0\0\0\x07\0\0\0GNU\0abcd\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\x10\0\0\x01",
    );
    file[0x180..].fill(0x90);
    file
}

#[test]
fn pvh_kernel_gets_its_start_information() {
    let file = elf();
    let request = request(&file, 5120 * MIB, 500);
    let plan = plan(&request).unwrap();
    assert_sound(&plan, &request, 0);
    assert_eq!(plan.vcpu.mode, hv_abi::domain::MODE_PROTECTED);
    assert_eq!((plan.vcpu.rip, plan.vcpu.rbx), (0x100_0010, BOOT_START_INFO));
    let info = plan.placements.iter().find(|placement| placement.gpa.0 == BOOT_START_INFO).unwrap();
    let Content::Bytes(bytes) = &info.content else { panic!("bytes") };
    assert_eq!(bytes[..16], *b"\x78\xc5\x6e\x33\x01\0\0\0\0\0\0\0\x01\0\0\0");
    assert_eq!(bytes[0x40..0x48], initrd_address(&plan).to_le_bytes());
    assert_eq!(bytes[0x48..0x50], 500u64.to_le_bytes());
    assert_eq!(bytes[48], 9);
    assert_eq!(bytes.len(), 0x80 + 9 * 24);
    assert!(
        plan.placements
            .contains(&Placement { gpa: Gpa(0x100_0080), content: Content::Zeroes(0x2000 - 0x80) })
    );
    assert_eq!(check(&file).unwrap().version, None);
    let mut named = file.clone();
    named[0x100..0x114].copy_from_slice(b"\x06\0\0\0\x04\0\0\0\0\x01\0\0Linux\0\0\0");
    named[0x114..0x128].fill(0);
    named[0x114..0x118].copy_from_slice(b"6.1\0");
    assert_eq!(check(&named), Err(LoadError::NoPvhEntry));
    let image = elf::parse(&named).unwrap();
    assert_eq!(pvh::version(&named, &pvh::PvhImage { entry: 0, elf: image }).as_deref(), Some("6.1"));
    let mut plain = file.clone();
    plain[0x11c] = 17;
    assert_eq!(check(&plain), Err(LoadError::NoPvhEntry));
    let mut low = file.clone();
    low[64 + 27] = 0;
    low[64 + 26] = 0;
    assert_eq!(check(&low), Err(LoadError::Malformed));
}

#[test]
fn mutated_kernels_never_panic() {
    let originals = [bzimage(32 << 20), elf()];
    // A plan takes a hundred times as long as a record.
    for seed in 1..wanted(2_000_000) / 100 {
        let mut random = Random::new(seed);
        let mut file = originals[random.place(2)].clone();
        mutate(&mut random, &mut file, 0x280);
        let request = request(&file, (2 + random.below(4096)) * MIB, random.below(64 * MIB));
        if let Ok(plan) = plan(&request) {
            assert_sound(&plan, &request, seed);
        }
    }
}
