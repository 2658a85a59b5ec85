/* What libiscsi needs for a number of 4 KiB reads or writes at random places, so many
 * at a time: the peer in `cargo measure`. Its own iscsi-perf reads only, and ends by
 * the clock, not by a count. Data goes straight between socket and buffers, as in
 * QEMU's driver.
 *
 * usage: peer PORTAL TARGET LUN read|write COUNT DEPTH BLOCKS */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#define BYTES 4096
#define DEPTH_MAX 256

static struct iscsi_context *iscsi;
static int lun, writing, failed;
static uint64_t state = 0x2545f4914f6cdd1dULL, blocks, left, done;
static unsigned char data[DEPTH_MAX][BYTES];
static struct scsi_iovec vectors[DEPTH_MAX];

static void begin(uintptr_t number);

static void ended(struct iscsi_context *context, int status, void *task, void *number)
{
    (void)context;
    if (status != SCSI_STATUS_GOOD) {
        fprintf(stderr, "failed: %s\n", iscsi_get_error(iscsi));
        failed = 1;
    }
    scsi_free_scsi_task(task);
    done++;
    if (left > 0 && !failed)
        begin((uintptr_t)number);
}

static void begin(uintptr_t number)
{
    uint64_t lba;
    struct scsi_task *task;

    left--;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    lba = (state >> 8) % (blocks / 8) * 8;
    vectors[number].iov_base = data[number];
    vectors[number].iov_len = BYTES;
    task = writing
        ? iscsi_write16_iov_task(iscsi, lun, lba, NULL, BYTES, 512, 0, 0, 0, 0, 0, ended, (void *)number,
                                 &vectors[number], 1)
        : iscsi_read16_iov_task(iscsi, lun, lba, BYTES, 512, 0, 0, 0, 0, 0, ended, (void *)number,
                                &vectors[number], 1);
    if (!task) {
        fprintf(stderr, "not taken: %s\n", iscsi_get_error(iscsi));
        failed = 1;
    }
}

int main(int argc, char **argv)
{
    uint64_t count;
    uintptr_t depth, number;

    if (argc != 8)
        return 2;
    lun = atoi(argv[3]);
    writing = !strcmp(argv[4], "write");
    count = left = strtoull(argv[5], NULL, 10);
    depth = strtoull(argv[6], NULL, 10);
    blocks = strtoull(argv[7], NULL, 10);
    if (depth < 1 || depth > DEPTH_MAX || blocks < 8)
        return 2;
    iscsi = iscsi_create_context("iqn.2026-11.io.redoubt:peer");
    iscsi_set_targetname(iscsi, argv[2]);
    iscsi_set_session_type(iscsi, ISCSI_SESSION_NORMAL);
    iscsi_set_header_digest(iscsi, ISCSI_HEADER_DIGEST_NONE);
    if (iscsi_full_connect_sync(iscsi, argv[1], lun)) {
        fprintf(stderr, "no session: %s\n", iscsi_get_error(iscsi));
        return 1;
    }
    for (number = 0; number < depth && left > 0; number++)
        begin(number);
    while (done < count && !failed) {
        struct pollfd wanted = { .fd = iscsi_get_fd(iscsi), .events = iscsi_which_events(iscsi) };
        if (poll(&wanted, 1, 1000) < 0 || iscsi_service(iscsi, wanted.revents)) {
            fprintf(stderr, "broken: %s\n", iscsi_get_error(iscsi));
            return 1;
        }
    }
    iscsi_logout_sync(iscsi);
    iscsi_destroy_context(iscsi);
    printf("%llu\n", (unsigned long long)done);
    return failed;
}
