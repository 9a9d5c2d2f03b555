#!/bin/sh
# PID 1 of a host, inside its fresh namespaces: makes the file system look like a machine of its own, then is its sshd.
# Arguments: the host's name, its directory, the directory that all hosts share, then paths of this machine to keep.
set -eu
name=$1 state=$2 shared=$3
shift 3
hostname "$name"
mkdir -p "$state/home" "$state/tmp" "$state/mnt/linnet"
chmod 1777 "$state/tmp"
[ -e "$state/home/.bashrc" ] || cp -r /etc/skel/. "$state/home"

# What the directories mounted below would hide shows through them, read-only.
keep() { # DIRECTORY SOURCE PATH
    case $3 in "$1"/*) ;; *) return 0 ;; esac
    mkdir -p "$2/${3#"$1"/}"
    mount --rbind "$3" "$2/${3#"$1"/}"
    mount -o remount,bind,ro "$2/${3#"$1"/}"
}
for path; do
    keep /root "$state/home" "$path"
    keep /tmp "$state/tmp" "$path"
    keep /mnt "$state/mnt" "$path"
done
mount --rbind "$shared" "$state/mnt/linnet"
mount --bind "$state/etc/hosts" /etc/hosts
mount --bind "$state/etc/resolv.conf" /etc/resolv.conf
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd /run/host
mount --bind "$state/etc" /run/host
mount --rbind "$state/home" /root
mount --rbind "$state/mnt" /mnt
mount --rbind "$state/tmp" /tmp # last: it hides $state
mount -o remount,bind,ro /
cd /
exec /usr/sbin/sshd -D -e -f /run/host/sshd_config
