//! A guest's kernel: whether it can be loaded, and how it gets into memory.

use alloc::borrow::Cow;
use alloc::string::ToString;

use hv_abi::DomainId;
use machine::acpi;
use machine::guest_memory::{Gpa, GuestMemory};
use machine::layout::{MemoryLayout, RESET_CODE, RESET_VECTOR};
use machine::loader::{self, LoadRequest};
use mgmt_proto::code::Code;
use mgmt_proto::machine::Machine;
use mgmt_proto::reason::{Reason, Refusal};

use crate::blobs::Blobs;
use crate::guests::guest::{Guest, MEMORY_UNIT, storage_failure};
use crate::hypervisor::Hypervisor;

/// A failure for a kernel that cannot be loaded.
fn load_failure(name: &str, error: loader::LoadError) -> Refusal {
    let (code, remedy) = match error {
        loader::LoadError::Memory { .. } => (Code::Capacity, "give it more memory"),
        loader::LoadError::CommandLine { .. } => (Code::Usage, "shorten cmdline"),
        _ => (Code::Usage, "kernel must be a Linux bzImage or a PVH ELF file"),
    };
    Refusal::said(code, name, error.to_string(), remedy)
}

/// The kernel's command line. Linux that is to do without the paravirtual clock would measure
/// its TSC against timers of a PC that are not there, and wait for them for ever: before it
/// reads the rate from CPUID it can only be told (kernel-parameters.txt, `tsc_early_khz`).
fn kernel_line(line: &str, tsc_khz: u64) -> Cow<'_, str> {
    let has = |wanted: &str| line.split_ascii_whitespace().any(|word| word.starts_with(wanted));
    // Behind `--` are the arguments of the first program.
    if !has("no-kvmclock") || has("tsc_early_khz=") {
        return Cow::Borrowed(line);
    }
    Cow::Owned(alloc::format!("tsc_early_khz={tsc_khz} {line}"))
}

/// Checks that a kernel can be loaded as described, without loading it.
///
/// # Errors
/// The failure to report.
pub fn check_kernel<H: Hypervisor>(
    hypervisor: &mut H,
    blobs: &Blobs<H::Memory>,
    machine: &Machine,
) -> Result<(), Refusal> {
    let initrd_bytes = match machine.ramdisk {
        Some(digest) => blobs.find(&digest).ok_or_else(|| missing(machine, "ramdisk"))?.1 as u64,
        None => 0,
    };
    let (domain, length) = blobs.find(&machine.kernel).ok_or_else(|| missing(machine, "kernel"))?;
    let mut result = Err(storage_failure(&machine.name, "the kernel's bytes are gone"));
    let line = kernel_line(&machine.command_line, hypervisor.node_info().tsc_khz);
    hypervisor.with_blob(domain, length, &mut |_, kernel| {
        let request = LoadRequest {
            kernel,
            initrd_bytes,
            command_line: line.as_bytes(),
            memory: MemoryLayout::new(machine.memory_bytes.next_multiple_of(MEMORY_UNIT)),
            acpi_root: acpi::build(machine.vcpus).root,
        };
        result = loader::plan(&request).map(|_| ()).map_err(|error| load_failure(&machine.name, error));
    });
    result
}

fn missing(machine: &Machine, what: &str) -> Refusal {
    Refusal::of(&machine.name, Reason::KernelMissing { what: what.into() })
}

impl<M: GuestMemory> Guest<M> {
    pub(crate) fn load<H: Hypervisor<Memory = M>>(
        &self,
        hypervisor: &mut H,
        blobs: &Blobs<M>,
        domain: DomainId,
        memory: &M,
        layout: MemoryLayout,
    ) -> Result<(), Refusal> {
        let machine = &self.machine;
        let tables = acpi::build(machine.vcpus);
        let stub = (Gpa(RESET_VECTOR), RESET_CODE.to_vec());
        for (gpa, bytes) in tables.parts.iter().chain([&stub]) {
            memory
                .write(*gpa, bytes)
                .map_err(|_| storage_failure(&machine.name, "no room for its tables"))?;
        }
        let (kernel_domain, kernel_bytes) =
            blobs.find(&machine.kernel).ok_or_else(|| missing(machine, "kernel"))?;
        let ramdisk = match &machine.ramdisk {
            Some(digest) => Some(blobs.find(digest).ok_or_else(|| missing(machine, "ramdisk"))?),
            None => None,
        };
        let mut result = Err(storage_failure(&machine.name, "the kernel's bytes are gone"));
        let line = kernel_line(&machine.command_line, hypervisor.node_info().tsc_khz);
        hypervisor.with_blob(kernel_domain, kernel_bytes, &mut |hypervisor, kernel| {
            let place = |hypervisor: &mut H, initrd: &[u8]| {
                let request = LoadRequest {
                    kernel,
                    initrd_bytes: initrd.len() as u64,
                    command_line: line.as_bytes(),
                    memory: layout,
                    acpi_root: tables.root,
                };
                let plan = loader::plan(&request).map_err(|error| load_failure(&machine.name, error))?;
                plan.apply(memory, kernel, initrd)
                    .map_err(|_| storage_failure(&machine.name, "its memory cannot be written"))?;
                hypervisor
                    .vcpu_set_state(domain, 0, &plan.vcpu)
                    .map_err(|_| storage_failure(&machine.name, "its first vCPU cannot be set up"))
            };
            match ramdisk {
                None => result = place(hypervisor, &[]),
                Some((ramdisk_domain, ramdisk_bytes)) => {
                    hypervisor.with_blob(ramdisk_domain, ramdisk_bytes, &mut |hypervisor, initrd| {
                        result = place(hypervisor, initrd);
                    });
                }
            }
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use super::kernel_line;

    #[test]
    fn a_kernel_without_its_clock_is_told_the_rate() {
        let line = |line| kernel_line(line, 2_500_000).into_owned();
        assert_eq!(
            line("quiet no-kvmclock root=/dev/vda"),
            "tsc_early_khz=2500000 quiet no-kvmclock root=/dev/vda"
        );
        for other in ["", "quiet", "no-kvmclock tsc_early_khz=3", "xno-kvmclock"] {
            assert_eq!(line(other), other);
        }
    }
}
