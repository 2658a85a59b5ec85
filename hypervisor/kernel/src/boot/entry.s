# 64-bit entry of the boot processor, and the trampoline of the others.
.section .text.entry, "ax"
.code64
.globl entry64
entry64:
    leaq boot_stack_top(%rip), %rsp
    xorl %ebp, %ebp
    # CR0.MP, no EM; CR4.OSFXSR and OSXMMEXCPT before any Rust code.
    movq %cr4, %rax
    orl $0x600, %eax
    movq %rax, %cr4
    callq rust_boot
1:  cli
    hlt
    jmp 1b

# Copied to 0x8000. Words at the end are filled in for each start.
.section .rodata
.balign 16
.globl trampoline_start, trampoline_end, trampoline_stack
.code16
trampoline_start:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl 0x8000 + (trampoline_pointer - trampoline_start)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x18, $(0x8000 + (trampoline32 - trampoline_start))
.code32
trampoline32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %ss
    movl $0x620, %eax
    movl %eax, %cr4
    movl 0x8000 + (trampoline_root - trampoline_start), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl $0x80010011, %eax
    movl %eax, %cr0
    ljmpl $8, $(0x8000 + (trampoline64 - trampoline_start))
.code64
trampoline64:
    movq 0x8000 + (trampoline_stack - trampoline_start), %rsp
    xorl %ebp, %ebp
    movabsq $rust_secondary, %rax
    callq *%rax
1:  cli
    hlt
    jmp 1b
.balign 8
trampoline_table:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
trampoline_pointer:
    .word 31
    .long 0x8000 + (trampoline_table - trampoline_start)
.balign 8
.globl trampoline_root
trampoline_root:
    .quad 0
trampoline_stack:
    .quad 0
trampoline_end:
