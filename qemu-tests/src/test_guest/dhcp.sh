#!/bin/busybox sh
# What udhcpc calls: takes the address it was given.
if [ "$1" = bound ]; then
  ip addr flush dev "$interface"
  ip addr add "$ip/${mask:-24}" dev "$interface"
fi
