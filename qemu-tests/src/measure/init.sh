#!/bin/busybox sh
# First program of a guest or a Linux node that is measured. The kernel hands
# worker=NAME, call=ADDRESS and, to a node, mtu=, aoe=1, portal=, target= over as
# environment.
echo "MEASURE user space"
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /var/run /etc/iscsi /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do
  case "$module" in
    aoe.ko) insmod /modules/aoe.ko aoe_iflist=eth0 ;;
    *) insmod "/modules/$module" ;;
  esac
done
[ "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)" = kvm-clock ] ||
  echo tsc >/sys/devices/system/clocksource/clocksource0/current_clocksource
echo "MEASURE clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
if [ -d /sys/class/net/eth0 ]; then
  ip link set lo up
  [ -n "$mtu" ] && ip link set eth0 mtu "$mtu"
  ip link set eth0 up
  udhcpc -i eth0 -q -n -t 30 -T 1 -s /dhcp.sh >/dev/null 2>&1
  echo "MEASURE address $(ip -4 addr show eth0 | awk '/inet / { print $2 }')"
fi
if [ -n "$target" ]; then
  echo "InitiatorName=iqn.2026-11.lab.redoubt:linux" >/etc/iscsi/initiatorname.iscsi
  iscsistart -i iqn.2026-11.lab.redoubt:linux -t "$target" -g 1 -a "$portal" -p 3260
fi
[ -n "$aoe" ] && echo 1 >/dev/etherd/discover
[ -n "$call" ] && load "$call" "$worker"
while :; do sleep 1000; done
