# The first sectors of the file: the Linux boot header and the real-mode code
# that a boot loader starts at offset 0x200.
#
# Spec: Linux documentation arch/x86/boot.rst. The code gathers the firmware's
# memory map into a boot-parameter page at offset 0x1000 of its own segment and
# enters the payload at 1 MiB in flat 32-bit mode with ESI = that page.
.section .setup16, "awx"
.code16
setup_start:
    # What a BIOS runs, at 0000:7c00, if the file is given to it as a disk or as a network boot
    # program: say so on screen and serial port, and stop.
    cli
    cld
    ljmpw $0x07c0, $(sector - setup_start)
sector:
    movw %cs, %ax
    movw %ax, %ds
    xorw %ax, %ax
    movw %ax, %ss
    movw $0x7c00, %sp
    # First serial port: 115200 baud, 8 bits, no parity, a stop bit.
    movw $0x3fb, %dx
    movb $0x83, %al
    outb %al, %dx
    movw $0x3f8, %dx
    movw $1, %ax
    outw %ax, %dx
    movw $0x3fb, %dx
    movb $0x03, %al
    outb %al, %dx
    movw $(sector_text - setup_start), %si
1:  lodsb
    testb %al, %al
    jz 4f
    pushw %ax
    # INT 10h AH=0Eh.
    movb $0x0e, %ah
    movw $0x0007, %bx
    int $0x10
    # A port that is not there is not waited for.
    xorw %cx, %cx
    movw $0x3fd, %dx
2:  inb %dx, %al
    testb $0x20, %al
    loopz 2b
    popw %ax
    movw $0x3f8, %dx
    outb %al, %dx
    jmp 1b
4:  hlt
    jmp 4b
sector_text:
    .ascii "\r\nRedoubt: this file is started as a Linux kernel is (iPXE, GRUB, QEMU -kernel), "
    .asciz "not as a disk or a network boot program.\r\n"

.org 0x1f1
    .byte 15                    # setup_sects: 16 sectors with this one
    .word 0
    .long 0                     # syssize, filled in by image-builder
    .word 0
    .word 0xffff
    .word 0
    .word 0xaa55
.org 0x200
    .byte 0xeb, header_end - 1f # jump over the header
1:  .ascii "HdrS"
    .word 0x020f                # protocol 2.15
    .long 0
    .word 0x1000
    .word version_text - 0x200
    .byte 0
loadflags:
    .byte 1                     # LOADED_HIGH
    .word 0x8000
    .long 0x100000              # code32_start
    .long 0, 0                  # ramdisk
    .long 0
    .word 0xfe00
    .byte 0, 0
command_line:
    .long 0
    .long 0x37ffffff            # initrd_addr_max
    .long 0x100000              # kernel_alignment
    .byte 0, 0                  # not relocatable
    .word 0                     # xloadflags
    .long 1023                  # cmdline_size
    .long 0
    .quad 0
    .long 0, 0                  # payload
    .quad 0                     # setup_data
    .quad 0x100000              # pref_address
    .long 0x2000000             # init_size
    .long 0
    .long 0
header_end:
    cli
    cld
    movw %ds, %ax
    movw %ax, %es

    # Boot parameters: copy of the header, then the memory map.
    movw $0x1f1, %si
    movw $0x11f1, %di
    movw $(header_end - setup_start - 0x1f1), %cx
    rep movsb

    # INT 15h AX=E820h (ACPI 6.4, 15.1).
    xorl %ebx, %ebx
    movw $0x12d0, %di
    xorw %bp, %bp
memory_map:
    movl $0xe820, %eax
    movl $20, %ecx
    movl $0x534d4150, %edx
    int $0x15
    jc memory_map_end
    cmpl $0x534d4150, %eax
    jne memory_map_end
    addw $20, %di
    incw %bp
    cmpw $128, %bp
    jae memory_map_end
    testl %ebx, %ebx
    jnz memory_map
memory_map_end:
    movw %bp, %ax
    movb %al, 0x11e8

    # A20, where the loader left it off.
    inb $0x92, %al
    orb $2, %al
    andb $0xfe, %al
    outb %al, $0x92

    # Flat segments, then protected mode.
    xorl %eax, %eax
    movw %ds, %ax
    shll $4, %eax
    leal 0x1000(%eax), %esi
    addl $descriptors, %eax
    movl %eax, descriptors_pointer + 2
    lidtl no_interrupts
    lgdtl descriptors_pointer
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x10, $0x100000

version_text:
    .asciz "Redoubt"
.balign 8
descriptors:
    .quad 0, 0
    .quad 0x00cf9b000000ffff    # 0x10: code
    .quad 0x00cf93000000ffff    # 0x18: data
descriptors_pointer:
    .word 31
    .long 0
no_interrupts:
    .word 0
    .long 0
.org 0x2000
