/* What the hypervisor and dom0 execute, each by itself: a plugin of QEMU for `cargo
 * measure`. Guests' kernels are linked above the hypervisor, and no program of a guest
 * that is measured runs where dom0 is.
 *
 * The counts are two 64-bit numbers in a file that the harness reads: the hypervisor's,
 * dom0's. QEMU's header is in no package of Debian's: what is used of it is declared here
 * (QEMU, docs/devel/tcg-plugins.rst, version 1 of the interface).
 *
 * usage: -plugin below_guest.so,counts=FILE */
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { ADD_U64 };
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int, void *, uint64_t);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 1;

/* hypervisor/kernel/link.ld, and where Linux begins at the lowest. */
#define HYPERVISOR 0xffffffff80000000ULL
#define LINUX 0xffffffff81000000ULL
/* appliance/src/bare/link.ld. */
#define DOM0 0x400000ULL
#define DOM0_END 0x800000ULL

static uint64_t *counts;

static void translate(plugin_id id, struct qemu_plugin_tb *block)
{
    size_t at, count = qemu_plugin_tb_n_insns(block);

    (void)id;
    for (at = 0; at < count; at++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, at);
        uint64_t address = qemu_plugin_insn_vaddr(instruction);

        if (address >= HYPERVISOR && address < LINUX)
            qemu_plugin_register_vcpu_insn_exec_inline(instruction, ADD_U64, &counts[0], 1);
        else if (address >= DOM0 && address < DOM0_END)
            qemu_plugin_register_vcpu_insn_exec_inline(instruction, ADD_U64, &counts[1], 1);
    }
}

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    const char prefix[] = "counts=";
    int file;

    (void)info;
    if (argc != 1 || strncmp(argv[0], prefix, sizeof prefix - 1))
        return 1;
    file = open(argv[0] + sizeof prefix - 1, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || ftruncate(file, 2 * sizeof *counts))
        return 1;
    counts = mmap(NULL, 2 * sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (counts == MAP_FAILED)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    return 0;
}
