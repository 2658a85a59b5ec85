/* What each turn of a node executes: a plugin of QEMU's user mode for `cargo measure` and
 * `cargo verify`. Instructions are counted block by block; a turn is what comes between a
 * call of a function whose name contains "turn_begins" and one of "turn_ends", without what
 * is between "apart_begins" and "apart_ends": fakes at their own work.
 *
 * The costs are 64-bit numbers, one for each turn, in a file that the harness reads. QEMU's
 * header is in no package of Debian's: what is used of it is declared here (QEMU,
 * docs/devel/tcg-plugins.rst, version 1 of the interface).
 *
 * usage: -plugin each_turn.so,costs=FILE */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { ADD_U64 };
enum { NO_REGISTERS };
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 1;

static FILE *costs;
static uint64_t executed, before;
static unsigned depth;
static uint64_t apart, apart_before;

static void begins(unsigned cpu, void *data)
{
    (void)cpu;
    (void)data;
    before = executed;
    apart = 0;
}

static void ends(unsigned cpu, void *data)
{
    uint64_t cost = executed - before - apart;

    (void)cpu;
    (void)data;
    fwrite(&cost, sizeof cost, 1, costs);
}

static void apart_begins(unsigned cpu, void *data)
{
    (void)cpu;
    (void)data;
    if (depth++ == 0)
        apart_before = executed;
}

static void apart_ends(unsigned cpu, void *data)
{
    (void)cpu;
    (void)data;
    if (--depth == 0)
        apart += executed - apart_before;
}

static void call_at(struct qemu_plugin_tb *block, const char *name, void (*function)(unsigned, void *))
{
    const char *symbol = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, 0));

    if (symbol && strstr(symbol, name))
        qemu_plugin_register_vcpu_tb_exec_cb(block, function, NO_REGISTERS, NULL);
}

static void translate(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &executed, qemu_plugin_tb_n_insns(block));
    call_at(block, "turn_begins", begins);
    call_at(block, "turn_ends", ends);
    call_at(block, "apart_begins", apart_begins);
    call_at(block, "apart_ends", apart_ends);
}

static void finish(plugin_id id, void *data)
{
    (void)id;
    (void)data;
    fclose(costs);
}

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    const char prefix[] = "costs=";

    (void)info;
    if (argc != 1 || strncmp(argv[0], prefix, sizeof prefix - 1))
        return 1;
    costs = fopen(argv[0] + sizeof prefix - 1, "wb");
    if (!costs)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    qemu_plugin_register_atexit_cb(id, finish, NULL);
    return 0;
}
