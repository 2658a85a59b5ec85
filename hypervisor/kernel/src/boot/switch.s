# Leaving ring 0 and coming back: interrupts, dom0 in ring 3, guests under SVM.
#
# Offsets into the per-CPU block at GS (see cpu.rs, asserted there):
.set CPU_KERNEL_RSP, 8
.set CPU_EOI, 16
.set CPU_TSS, 24
.set CPU_SCRATCH, 32
.set CPU_PENDING, 40
.set CPU_STEPS, 72
.set CPU_GUEST_CONTROL, 80
.set CPU_OWN_CONTROL, 88
# Steps (see hv_core::speculation):
.set STEP_SWAP, 1
.set STEP_BARRIER, 2
.set STEP_CLEAR, 4
# Offsets into Registers (see registers.rs, asserted there):
.set R_RAX, 0
.set R_RBX, 8
.set R_RCX, 16
.set R_RDX, 24
.set R_RSI, 32
.set R_RDI, 40
.set R_RBP, 48
.set R_RSP, 56
.set R_R8, 64
.set R_R9, 72
.set R_R10, 80
.set R_R11, 88
.set R_R12, 96
.set R_R13, 104
.set R_R14, 112
.set R_R15, 120
.set R_RIP, 128
.set R_RFLAGS, 136
.set R_VECTOR, 144
.set R_ERROR, 152
.set R_CR2, 160
.set R_XMM, 176

.macro SAVE_XMM base
    movaps %xmm0, R_XMM+0(\base)
    movaps %xmm1, R_XMM+16(\base)
    movaps %xmm2, R_XMM+32(\base)
    movaps %xmm3, R_XMM+48(\base)
    movaps %xmm4, R_XMM+64(\base)
    movaps %xmm5, R_XMM+80(\base)
    movaps %xmm6, R_XMM+96(\base)
    movaps %xmm7, R_XMM+112(\base)
    movaps %xmm8, R_XMM+128(\base)
    movaps %xmm9, R_XMM+144(\base)
    movaps %xmm10, R_XMM+160(\base)
    movaps %xmm11, R_XMM+176(\base)
    movaps %xmm12, R_XMM+192(\base)
    movaps %xmm13, R_XMM+208(\base)
    movaps %xmm14, R_XMM+224(\base)
    movaps %xmm15, R_XMM+240(\base)
.endm
.macro LOAD_XMM base
    movaps R_XMM+0(\base), %xmm0
    movaps R_XMM+16(\base), %xmm1
    movaps R_XMM+32(\base), %xmm2
    movaps R_XMM+48(\base), %xmm3
    movaps R_XMM+64(\base), %xmm4
    movaps R_XMM+80(\base), %xmm5
    movaps R_XMM+96(\base), %xmm6
    movaps R_XMM+112(\base), %xmm7
    movaps R_XMM+128(\base), %xmm8
    movaps R_XMM+144(\base), %xmm9
    movaps R_XMM+160(\base), %xmm10
    movaps R_XMM+176(\base), %xmm11
    movaps R_XMM+192(\base), %xmm12
    movaps R_XMM+208(\base), %xmm13
    movaps R_XMM+224(\base), %xmm14
    movaps R_XMM+240(\base), %xmm15
.endm
.macro END_OF_INTERRUPT
    movq %gs:CPU_EOI, %rax
    testq %rax, %rax
    jz 2f
    movl $0, (%rax)
    jmp 3f
2:  movl $0x80b, %ecx
    xorl %eax, %eax
    xorl %edx, %edx
    wrmsr
3:
.endm

.section .text, "ax"
.code64
# 256 entries of 16 bytes each; a zero stands in for a missing error code.
.balign 16
.globl interrupt_entries
interrupt_entries:
.set vector, 0
.rept 256
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    pushq $0
    .endif
    pushq $vector
    jmp interrupt_common
    .set vector, vector + 1
.endr

# Stack: vector, error, RIP, CS, RFLAGS, RSP, SS.
interrupt_common:
    cmpq $2, (%rsp)
    je interrupt_nmi
    testb $3, 24(%rsp)
    jnz interrupt_from_user
    cmpq $32, (%rsp)
    jae 8f
    # A machine check (18) that found a CPU asleep harms nothing it was doing.
    cmpq $18, (%rsp)
    jne interrupt_exception
    cmpq $idle_resume, 16(%rsp)
    jne interrupt_exception
    lock btsq $18, %gs:CPU_PENDING
    jmp 9f
    # In ring 0 interrupts only arrive at two known places; leave a mark.
8:  pushq %rax
    pushq %rcx
    pushq %rdx
    movq 24(%rsp), %rax
    lock btsq %rax, %gs:CPU_PENDING
    END_OF_INTERRUPT
    popq %rdx
    popq %rcx
    popq %rax
9:  addq $16, %rsp
    iretq
# Of no meaning but one: the node failed on another CPU, and this one is to stop.
interrupt_nmi:
    cmpb $0, STOP_AT_NMI(%rip)
    je 9b
    movq %rsp, %rdi
    andq $-16, %rsp
    callq rust_stopped
    ud2
interrupt_exception:
    cld
    movq %rsp, %rdi
    andq $-16, %rsp
    callq rust_exception
    ud2
# Flags are ring 3's still: AC would turn SMAP off, DF copying around.
interrupt_from_user:
    swapgs
    pushq $2
    popfq
    movq %rax, %gs:CPU_SCRATCH
    movq %gs:CPU_KERNEL_RSP, %rax
    movq (%rax), %rax
    movq %rbx, R_RBX(%rax)
    movq %rcx, R_RCX(%rax)
    movq %rdx, R_RDX(%rax)
    movq %rsi, R_RSI(%rax)
    movq %rdi, R_RDI(%rax)
    movq %rbp, R_RBP(%rax)
    movq %r8, R_R8(%rax)
    movq %r9, R_R9(%rax)
    movq %r10, R_R10(%rax)
    movq %r11, R_R11(%rax)
    movq %r12, R_R12(%rax)
    movq %r13, R_R13(%rax)
    movq %r14, R_R14(%rax)
    movq %r15, R_R15(%rax)
    movq %gs:CPU_SCRATCH, %rcx
    movq %rcx, R_RAX(%rax)
    movq (%rsp), %rbx
    movq %rbx, R_VECTOR(%rax)
    movq 8(%rsp), %rcx
    movq %rcx, R_ERROR(%rax)
    movq 16(%rsp), %rcx
    movq %rcx, R_RIP(%rax)
    movq 32(%rsp), %rcx
    movq %rcx, R_RFLAGS(%rax)
    movq 40(%rsp), %rcx
    movq %rcx, R_RSP(%rax)
    movq %cr2, %rcx
    movq %rcx, R_CR2(%rax)
    SAVE_XMM %rax
    cmpq $32, %rbx
    jb 4f
    lock btsq %rbx, %gs:CPU_PENDING
    END_OF_INTERRUPT
4:  xorl %eax, %eax
leave_user:
    movq %gs:CPU_KERNEL_RSP, %rsp
    popq %rdi
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

.globl system_call_entry
system_call_entry:
    swapgs
    movq %rsp, %gs:CPU_SCRATCH
    movq %gs:CPU_KERNEL_RSP, %rsp
    pushq %r11
    movq 8(%rsp), %r11
    popq R_RFLAGS(%r11)
    movq %rcx, R_RIP(%r11)
    movq %gs:CPU_SCRATCH, %rcx
    movq %rcx, R_RSP(%r11)
    movq %rax, R_RAX(%r11)
    movq %rbx, R_RBX(%r11)
    movq %rdx, R_RDX(%r11)
    movq %rsi, R_RSI(%r11)
    movq %rdi, R_RDI(%r11)
    movq %rbp, R_RBP(%r11)
    movq %r8, R_R8(%r11)
    movq %r9, R_R9(%r11)
    movq %r10, R_R10(%r11)
    movq %r12, R_R12(%r11)
    movq %r13, R_R13(%r11)
    movq %r14, R_R14(%r11)
    movq %r15, R_R15(%r11)
    SAVE_XMM %r11
    movl $1, %eax
    jmp leave_user

# enter_user(registers) -> 0 after an interrupt or exception, 1 after a call.
.globl enter_user
enter_user:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rdi
    movq %rsp, %gs:CPU_KERNEL_RSP
    movq %gs:CPU_TSS, %rax
    movq %rsp, 4(%rax)
    pushq $0x1b
    pushq R_RSP(%rdi)
    pushq R_RFLAGS(%rdi)
    pushq $0x23
    pushq R_RIP(%rdi)
    LOAD_XMM %rdi
    movq R_RAX(%rdi), %rax
    movq R_RBX(%rdi), %rbx
    movq R_RCX(%rdi), %rcx
    movq R_RDX(%rdi), %rdx
    movq R_RSI(%rdi), %rsi
    movq R_RBP(%rdi), %rbp
    movq R_R8(%rdi), %r8
    movq R_R9(%rdi), %r9
    movq R_R10(%rdi), %r10
    movq R_R11(%rdi), %r11
    movq R_R12(%rdi), %r12
    movq R_R13(%rdi), %r13
    movq R_R14(%rdi), %r14
    movq R_R15(%rdi), %r15
    movq R_RDI(%rdi), %rdi
    swapgs
    iretq

# run_guest(registers, vmcb physical, host vmcb physical). With the global
# interrupt flag clear, IF only decides whether physical interrupts end guest
# mode; they are taken at the STGI below (APM 15.13, 15.17).
.globl run_guest
run_guest:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rdi
    pushq %rdx
    # From here to VMRUN nothing branches: ring 0 may be under the guest's SPEC_CTRL.
    testb $STEP_SWAP, %gs:CPU_STEPS
    jz 1f
    movl $0x48, %ecx
    movl %gs:CPU_GUEST_CONTROL, %eax
    xorl %edx, %edx
    wrmsr
1:  movq %rsi, %rax
    LOAD_XMM %rdi
    movq R_RBX(%rdi), %rbx
    movq R_RCX(%rdi), %rcx
    movq R_RDX(%rdi), %rdx
    movq R_RSI(%rdi), %rsi
    movq R_RBP(%rdi), %rbp
    movq R_R8(%rdi), %r8
    movq R_R9(%rdi), %r9
    movq R_R10(%rdi), %r10
    movq R_R11(%rdi), %r11
    movq R_R12(%rdi), %r12
    movq R_R13(%rdi), %r13
    movq R_R14(%rdi), %r14
    movq R_R15(%rdi), %r15
    movq R_RDI(%rdi), %rdi
    testb $STEP_CLEAR, %gs:CPU_STEPS
    jz 1f
    verw data_selector(%rip)
1:  clgi
    sti
    vmload %rax
    vmrun %rax
.globl after_guest
after_guest:
    vmsave %rax
    movq 8(%rsp), %rax
    movq %rbx, R_RBX(%rax)
    movq %rcx, R_RCX(%rax)
    movq %rdx, R_RDX(%rax)
    movq %rsi, R_RSI(%rax)
    movq %rdi, R_RDI(%rax)
    movq %rbp, R_RBP(%rax)
    movq %r8, R_R8(%rax)
    movq %r9, R_R9(%rax)
    movq %r10, R_R10(%rax)
    movq %r11, R_R11(%rax)
    movq %r12, R_R12(%rax)
    movq %r13, R_R13(%rax)
    movq %r14, R_R14(%rax)
    movq %r15, R_R15(%rax)
    SAVE_XMM %rax
    popq %rax
    vmload %rax
    popq %rdi
    # Before the first return: predictions of the guest's are of no
    # effect, and its values are in no register.
    testb $STEP_BARRIER, %gs:CPU_STEPS
    jz 1f
    movl $0x49, %ecx
    movl $1, %eax
    xorl %edx, %edx
    wrmsr
1:  testb $STEP_SWAP, %gs:CPU_STEPS
    jz 1f
    movl $0x48, %ecx
    movl %gs:CPU_OWN_CONTROL, %eax
    xorl %edx, %edx
    wrmsr
1:  lfence
    xorl %eax, %eax
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    xorl %edx, %edx
    xorl %esi, %esi
    xorl %edi, %edi
    xorl %ebp, %ebp
    xorl %r8d, %r8d
    xorl %r9d, %r9d
    xorl %r10d, %r10d
    xorl %r11d, %r11d
    xorl %r12d, %r12d
    xorl %r13d, %r13d
    xorl %r14d, %r14d
    xorl %r15d, %r15d
    # The return stack: 32 entries that lead to a trap.
.globl fill_return_stack
fill_return_stack:
    .rept 32
    call 1f
    int3
1:
    .endr
    addq $(32 * 8), %rsp
    lfence
    stgi
    nop
    cli
    cld
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

.balign 2
data_selector:
    .word 0x10

# Sleeps until an interrupt; the shadow of STI closes the race.
.globl idle_wait
idle_wait:
    sti
    hlt
idle_resume:
    cli
    ret
