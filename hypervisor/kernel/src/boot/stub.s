# The first page of the payload, at 1 MiB: entered in flat 32-bit mode with
# ESI = boot parameters. Copies the hypervisor to its place, so that the payload
# stays as signed, builds the first page tables and enters 64-bit mode.
.set DIRECTORY, 0x101000
.set TABLES, 0xff0000
.set PLACE, 0x1000000
.section .stub, "awx"
.code32
.globl stub32
stub32:
    cli
    cld
    movw $0x18, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %esi, %ebp

    # Part 0 is the hypervisor: kind, reserved, offset, length, memory length.
    cmpl $1, DIRECTORY + 16
    jne bad
    movl DIRECTORY + 24, %esi
    addl $0x100000, %esi
    movl $PLACE, %edi
    movl DIRECTORY + 32, %ecx
    rep movsb
    movl DIRECTORY + 40, %ecx
    subl DIRECTORY + 32, %ecx
    xorl %eax, %eax
    rep stosb

    # Tables: PML4, low directory pointer, four directories (identity, 4 GiB),
    # high directory pointer, high directory (the hypervisor's 16 MiB).
    movl $TABLES, %edi
    movl $(8 * 1024), %ecx
    rep stosl
    movl $(TABLES + 0x1003), TABLES
    movl $(TABLES + 0x1003), TABLES + 256 * 8
    movl $(TABLES + 0x6003), TABLES + 511 * 8
    movl $(TABLES + 0x7003), TABLES + 0x6000 + 510 * 8
    movl $(TABLES + 0x2003), %eax
    movl $(TABLES + 0x1000), %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop 1b
    movl $0x83, %eax
    movl $(TABLES + 0x2000), %edi
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    movl $(PLACE + 0x83), %eax
    movl $(TABLES + 0x7000), %edi
    movl $8, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b

    # CR4.PAE, EFER.LME and NXE, paging (APM 14.6.1).
    movl $0x20, %eax
    movl %eax, %cr4
    movl $TABLES, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl $0x80010011, %eax
    movl %eax, %cr0
    lgdt pointer64
    ljmpl $8, $long_mode
bad:
    hlt
    jmp bad
.balign 8
table64:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
pointer64:
    .word 23
    .long table64
.code64
long_mode:
    movl $0x10, %eax
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %ebp, %edi
    movabsq $0xffffffff80000000, %rax
    jmpq *%rax
.org 0x1000
