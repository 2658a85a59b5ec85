#!/bin/busybox sh
# First program of a test guest. What it does comes from the kernel command line:
# the kernel hands job=... and its arguments over as environment.
/bin/busybox mkdir -p /proc /sys /dev /tmp /www /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod "/modules/$module"; done
[ -c /dev/hvc0 ] && exec </dev/hvc0 >/dev/hvc0 2>&1
say() { echo "TEST $*"; }
memory() { awk '/^MemTotal/ { print $2 }' /proc/meminfo; }
if [ -d /sys/class/net/eth0 ]; then
  ip link set lo up
  ip link set eth0 up
  udhcpc -i eth0 -q -n -t 30 -T 1 -s /dhcp.sh >/dev/null 2>&1
  say "address $(ip -4 addr show eth0 | awk '/inet / { print $2 }')"
fi
[ -x /bin/strings ] && /bin/strings
say "up cpus=$(nproc) memory_kib=$(memory) release=$(uname -r) mtu=$(cat /sys/class/net/eth0/mtu 2>/dev/null)"

# Writes random bytes over what is not there for it to write.
scribble_pci() {
  for device in /sys/bus/pci/devices/*; do
    # The console stays, to tell of all this.
    case "$(cat $device/class)" in 0x0780*) continue ;; esac
    [ -e $device/driver ] && basename $device >$device/driver/unbind
    count=0
    while [ $count -lt 40 ]; do
      head -c 4 /dev/urandom | dd of=$device/config bs=4 seek=$((RANDOM % 64)) conv=notrunc 2>/dev/null
      count=$((count + 1))
    done
    awk 'NR <= 6 && $1 != "0x0000000000000000" { print $1 }' $device/resource | while read base; do
      for offset in 0x0 0x4 0x8 0x14 0x16 0x18 0x20 0x28 0x30 0x1000 0x2000 0x3000 0x3ffc; do
        devmem $((base + offset)) 32 $((RANDOM * RANDOM)) >/dev/null 2>&1
      done
    done
    echo 1 >/sys/bus/pci/rescan
  done
}

scribble_msrs() {
  insmod /modules/msr.ko allow_writes=on 2>/dev/null
  for first in 0x0 0x200 0x400 0x600 0x800 0x40000000 0x4b564d00 0xc0000080 0xc0000100 0xc0010000 0xc0010100; do
    number=0
    while [ $number -lt 40 ]; do
      head -c 8 /dev/urandom | dd of=/dev/cpu/0/msr bs=8 count=1 seek=$((first / 8 + number)) conv=notrunc 2>/dev/null
      number=$((number + 1))
    done
  done
}

scribble_ports() {
  /bin/ports & ports=$!
  sleep 2
  kill -9 $ports
}

scribble() {
  while :; do
    for what in $(echo $targets | tr , ' '); do
      scribble_$what
      say scribbled over $what
    done
  done
}

# Writes a file that lies above 4 GiB, where the zone named Normal is.
high_memory() {
  free_pages() { awk '/zone +Normal/ { normal = 1 } normal && /nr_free_pages/ { print $2; exit }' /proc/zoneinfo; }
  before=$(free_pages)
  head -c 1048576 /dev/urandom >/tmp/unit
  count=0
  while [ $count -lt "${mib:-300}" ]; do cat /tmp/unit; count=$((count + 1)); done >/tmp/large
  after=$(free_pages)
  wrong=0 count=0
  while [ $count -lt "${mib:-300}" ]; do
    dd if=/tmp/large bs=1M skip=$count count=1 2>/dev/null | cmp - /tmp/unit || wrong=$((wrong + 1))
    count=$((count + 50))
  done
  say "high memory used_kib=$(((before - after) * 4)) wrong=$wrong"
}

# Fetches each source `rounds` times and says which digests came out.
fetch() {
  for source in $(echo $sources | tr , " "); do
    round=0
    while [ $round -lt "${rounds:-1}" ]; do
      say "fetched $source $(wget -q -O - "http://$source/data" | sha256sum | cut -c 1-64)"
      round=$((round + 1))
    done
  done
  say fetched all
}

serve() {
  echo "page of ${page:-a test guest}" >/www/index.html
  [ -n "$mib" ] && head -c "$((mib * 1048576))" /dev/urandom >/www/data
  [ -n "$mib" ] && sha256sum /www/data | cut -c 1-64 >/www/digest && say "data $(cat /www/digest)"
  httpd -p 80 -h /www
  say serving
}

# Writes random bytes to the disk, makes them durable, drops what is cached,
# reads them again.
disk() {
  say "disk blocks $(cat /sys/block/vda/queue/logical_block_size)"
  head -c "$((${mib:-8} * 1048576))" /dev/urandom >/tmp/unit
  dd if=/tmp/unit of=/dev/vda bs=64k conv=fsync,notrunc 2>/dev/null
  echo 3 >/proc/sys/vm/drop_caches
  dd if=/dev/vda bs=64k count="$((${mib:-8} * 16))" 2>/dev/null | cmp - /tmp/unit && say disk agrees
}

[ -n "$talks" ] && dmesg
case "$job" in
  poweroff) say turning off; sleep 1; poweroff -f ;;
  reboot) say resetting; sleep 1; reboot -f ;;
  crash) say crashing; sleep 1; echo c >/proc/sysrq-trigger ;;
  spin) say spinning; for cpu in $(seq "$(nproc)"); do while :; do :; done & done ;;
  serve) serve ;;
  fetch) serve; fetch ;;
  disk) disk ;;
  mark) yes REDOUBT-MARK-07 | head -c 4194304 >/tmp/mark; say marked ;;
  scribble) say scribbling; scribble ;;
  high-memory) high_memory ;;
  attack) say attacking; attacker eth0 "$seconds" "$node" "$node_mac" "$portal" "$other" "$own" || say "failed: $?" ;;
  *) say idle ;;
esac
while :; do sleep 1000; done
