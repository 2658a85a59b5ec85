//! Disassembles ring 0 and checks it against what `hypervisor/README.md` lists of each exit of a
//! guest: before the first return or indirect branch after VMRUN stand the two registers
//! that take the guest's predictions away, a fence, and the fill of the return stack; and
//! nowhere stands a call or jump whose target is predicted.

use anyhow::{Context, Result, bail, ensure};
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use object::{Object, ObjectSection};

/// Entries of the return stack, on all processors that ring 0 runs on.
const RETURNS: usize = 32;

/// Checks the ELF file of the hypervisor: in how many places it enters a guest.
///
/// # Errors
/// Names what does not hold, and where.
pub fn check(elf: &[u8]) -> Result<usize> {
    let file = object::File::parse(elf).context("the hypervisor is not an ELF file")?;
    let text = file.section_by_name(".text").context("the hypervisor has no code")?;
    check_code(text.data()?, text.address())
}

/// Checks code at an address.
fn check_code(code: &[u8], address: u64) -> Result<usize> {
    let all: Vec<Instruction> = Decoder::with_ip(64, code, address, DecoderOptions::NONE).iter().collect();
    let indirect = all
        .iter()
        .find(|it| matches!(it.flow_control(), FlowControl::IndirectBranch | FlowControl::IndirectCall));
    if let Some(branch) = indirect {
        bail!("an indirect branch at {:#x}: its target is predicted", branch.ip());
    }
    let mut entries = 0;
    for (at, entry) in all.iter().enumerate().filter(|(_, it)| it.mnemonic() == Mnemonic::Vmrun) {
        entries += 1;
        let rest = all.get(at..).unwrap_or_default();
        let path: Vec<&Instruction> =
            rest.iter().take_while(|it| it.flow_control() != FlowControl::Return).collect();
        check_path(&path).with_context(|| format!("after VMRUN at {:#x}", entry.ip()))?;
    }
    ensure!(entries > 0, "no guest is entered anywhere");
    Ok(entries)
}

/// Checks what follows VMRUN up to the first return.
fn check_path(path: &[&Instruction]) -> Result<()> {
    let position = |from: usize, wanted: &dyn Fn(&Instruction) -> bool| {
        path.iter().skip(from).position(|it| wanted(it)).map(|at| at + from)
    };
    let mut at = 0;
    for (number, name) in [(0x49, "PRED_CMD"), (0x48, "SPEC_CTRL")] {
        let chosen = position(at, &|it| it.code() == Code::Mov_r32_imm32 && it.immediate32() == number);
        at = chosen.with_context(|| format!("{name} is not written"))?;
        at = position(at, &|it| it.mnemonic() == Mnemonic::Wrmsr).context("no WRMSR")?;
    }
    let fence = |it: &Instruction| it.mnemonic() == Mnemonic::Lfence;
    at = position(at, &fence).context("no LFENCE after the registers")?;
    let mut filled = 0;
    for pair in path.get(at..).unwrap_or_default().windows(2) {
        let [call, trap] = pair else { continue };
        let leads = call.mnemonic() == Mnemonic::Call && call.near_branch_target() == trap.next_ip();
        filled += usize::from(leads && trap.mnemonic() == Mnemonic::Int3);
    }
    ensure!(filled == RETURNS, "the return stack gets {filled} entries, not {RETURNS}");
    let last = path.iter().rposition(|it| it.mnemonic() == Mnemonic::Call).unwrap_or(at);
    position(last, &fence).context("no LFENCE after the return stack")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_code;

    /// VMRUN, both registers, fence, fill, fence, return.
    fn path() -> Vec<Vec<u8>> {
        let write = |number: u8| vec![0xb9, number, 0, 0, 0, 0x0f, 0x30];
        let fence = || vec![0x0f, 0xae, 0xe8];
        let fill = [0xe8, 1, 0, 0, 0, 0xcc].repeat(32);
        vec![vec![0x0f, 0x01, 0xd8], write(0x49), write(0x48), fence(), fill, fence(), vec![0xc3]]
    }

    fn problem(path: &[Vec<u8>]) -> String {
        format!("{:#}", check_code(&path.concat(), 0x1000).unwrap_err())
    }

    #[test]
    fn the_exit_path_follows_its_steps() {
        let code = path().concat();
        assert_eq!(check_code(&code, 0x1000).unwrap(), 1);
        for (left_out, words) in [
            (0, "no guest is entered"),
            (1, "PRED_CMD is not written"),
            (2, "SPEC_CTRL is not written"),
            (3, "gets 0 entries"),
            (4, "gets 0 entries"),
            (5, "no LFENCE after the return stack"),
        ] {
            let mut path = path();
            path.remove(left_out);
            let problem = problem(&path);
            assert!(problem.contains(words), "without {left_out}: {problem}");
        }
    }

    #[test]
    fn a_return_comes_after_all_of_it() {
        for place in 1..=5 {
            let mut path = path();
            path.insert(place, vec![0xc3]);
            let problem = problem(&path);
            assert!(problem.contains("after VMRUN at 0x1000"), "at {place}: {problem}");
        }
    }

    #[test]
    fn no_branch_is_predicted_anywhere() {
        // jmp rax; call [rax]; jmp [rip + 8]; call r11.
        for branch in [&[0xff, 0xe0][..], &[0xff, 0x10], &[0xff, 0x25, 8, 0, 0, 0], &[0x41, 0xff, 0xd3]] {
            for place in 0..=path().len() {
                let mut path = path();
                let at = 0x1000 + path.iter().take(place).map(Vec::len).sum::<usize>();
                path.insert(place, branch.to_vec());
                let problem = problem(&path);
                let words = format!("an indirect branch at {at:#x}");
                assert!(problem.contains(&words), "{branch:x?} at {place}: {problem}");
            }
        }
        // Through a return: call over pause, lfence, jmp; the target is stored; ret.
        let thunk =
            vec![0xe8, 7, 0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, 0x4c, 0x89, 0x1c, 0x24, 0xc3];
        let mut path = path();
        path.push(thunk);
        assert_eq!(check_code(&path.concat(), 0x1000).unwrap(), 1);
    }
}
