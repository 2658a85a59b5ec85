#!/bin/busybox sh
# First program of a guest that writes to its disks, reads back and compares, while
# their targets and wires come and go. seconds=N comes from the kernel command line.
# The first disk holds fio in an archive.
/bin/busybox mkdir -p /proc /sys /dev /tmp /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod "/modules/$module"; done
[ -c /dev/hvc0 ] && exec </dev/hvc0 >/dev/hvc0 2>&1
say() { echo "TEST $*"; }
say "up"
cd / && cpio -idm </dev/vda 2>/dev/null
[ -x /fio/bin/fio ] || say "failed: no fio on the first disk"

# Writes, and verifies what was written 64 blocks ago, all the time.
check() {
  /fio/lib/ld-linux-x86-64.so.2 --library-path /fio/lib /fio/bin/fio --name="$1" --filename="/dev/$1" \
    --rw=randwrite --bsrange=4k-64k --size=24m --direct=1 --ioengine=libaio --iodepth=16 \
    --verify=crc32c --verify_backlog=64 --verify_fatal=1 --time_based --runtime="$seconds" \
    --randseed=7 --output-format=terse --terse-version=3 >"/tmp/$1" 2>"/tmp/$1.error"
  code=$?
  [ $code = 0 ] || { say "failed: fio on $1 ended with $code"; tail -n 5 "/tmp/$1.error"; }
  say "finished $1 code $code errors $(cut -d';' -f5 "/tmp/$1") wrote_kib $(cut -d';' -f47 "/tmp/$1") read_kib $(cut -d';' -f6 "/tmp/$1") slowest_read_us $(cut -d';' -f39 "/tmp/$1") slowest_write_us $(cut -d';' -f80 "/tmp/$1")"
}
check vdb & first=$!
check vdc & second=$!
say "writing"
size=$(cat /sys/block/vdc/size)
( while sleep 1; do
    now=$(cat /sys/block/vdc/size)
    [ "$now" = "$size" ] || say "the size of vdc is $now"
    size=$now
  done ) &
wait $first $second
say "all finished, kernel errors $(dmesg | grep -c 'I/O error')"
while :; do sleep 1000; done
