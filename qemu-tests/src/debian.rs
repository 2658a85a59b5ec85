//! A guest's root file system: a real minimal Debian with its own stock kernel
//! and initrd, made once and kept under `target/`.

use crate::process::run;
use anyhow::{Context, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a guest is started from.
#[derive(Debug, Clone)]
pub struct Debian {
    /// Kernel.
    pub kernel: PathBuf,
    /// Initrd.
    pub initrd: PathBuf,
    /// Root file system, an ext4 image without partitions.
    pub root: PathBuf,
}

/// Packages in the guest beside the essential ones.
const PACKAGES: &str =
    "linux-image-cloud-amd64,initramfs-tools,systemd-sysv,udev,dbus,iproute2,busybox,kmod,e2fsprogs";
/// Size of the root file system.
const ROOT_SIZE: &str = "1G";
/// Changes when the recipe below does, so that an old image is not used.
const RECIPE: u32 = 5;

/// Finds or makes the guest's files.
///
/// # Errors
/// When mmdebstrap fails.
pub fn ensure(target: &Path) -> Result<Debian> {
    let directory = target.join(format!("debian-{RECIPE}"));
    let debian = Debian {
        kernel: directory.join("vmlinuz"),
        initrd: directory.join("initrd.img"),
        root: directory.join("root.img"),
    };
    let complete = directory.join("complete");
    if complete.exists() {
        return Ok(debian);
    }
    println!("making a minimal Debian for the guests (once, takes a minute or two)");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory)?;
    bootstrap(&directory)?;
    std::fs::write(&complete, "")?;
    Ok(debian)
}

/// Runs in the new root: the network by DHCP, a page over HTTP, no passwords.
const SETUP: &str = r#"set -e
root="$1"
printf '[Match]\nName=eth*\n[Network]\nDHCP=yes\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n' > "$root/etc/systemd/network/80-dhcp.network"
mkdir -p "$root/srv/www" "$root/etc/systemd/system/multi-user.target.wants"
echo unset > "$root/srv/www/index.html"
printf '[Unit]\nDescription=Page\nAfter=systemd-networkd.service\n[Service]\nExecStart=/bin/busybox httpd -f -p 80 -h /srv/www\nRestart=always\n[Install]\nWantedBy=multi-user.target\n' > "$root/etc/systemd/system/page.service"
ln -sf ../page.service "$root/etc/systemd/system/multi-user.target.wants/page.service"
ln -sf /lib/systemd/system/systemd-networkd.service "$root/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
printf '/dev/vda / ext4 errors=remount-ro 0 1\n' > "$root/etc/fstab"
echo guest > "$root/etc/hostname"
: > "$root/etc/machine-id"
chroot "$root" passwd -d root
mkdir -p "$root/etc/systemd/system/serial-getty@hvc0.service.d"
printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 hvc0 linux\n' > "$root/etc/systemd/system/serial-getty@hvc0.service.d/autologin.conf"
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer systemd-timesyncd.service man-db.timer dpkg-db-backup.timer e2scrub_reap.service \
  modprobe@.service sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount dev-hugepages.mount dev-mqueue.mount \
  proc-sys-fs-binfmt_misc.automount systemd-pstore.service systemd-ask-password-console.path systemd-ask-password-wall.path; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
printf 'virtio_pci\nvirtio_blk\nvirtio_net\nvirtio_console\n' >> "$root/etc/initramfs-tools/modules"
printf 'button\nevdev\nvirtio_rng\n' > "$root/etc/modules-load.d/redoubt.conf"
"#;

/// Makes the three files. An unprivileged user's mmdebstrap works as another user,
/// who may not reach this user's directories: so they pass through one that any user
/// may use.
fn bootstrap(directory: &Path) -> Result<()> {
    let scratch = std::env::temp_dir().join(format!("redoubt-debian-{}", std::process::id()));
    std::fs::create_dir(&scratch).with_context(|| scratch.display().to_string())?;
    let made = std::fs::set_permissions(&scratch, std::fs::Permissions::from_mode(0o777))
        .map_err(anyhow::Error::from)
        .and_then(|()| bootstrap_in(&scratch))
        .and_then(|()| {
            ["vmlinuz", "initrd.img", "root.img"].iter().try_for_each(|name| {
                let mut copy = Command::new("cp");
                copy.arg("--sparse=always").args([scratch.join(name), directory.join(name)]);
                run(&mut copy).map(|_| ())
            })
        });
    let _ = std::fs::remove_dir_all(&scratch);
    made
}

fn bootstrap_in(scratch: &Path) -> Result<()> {
    let setup = scratch.join("setup.sh");
    std::fs::write(&setup, SETUP)?;
    let shown = |name: &str| scratch.join(name).display().to_string();
    let finish = format!(
        "set -e; chroot \"$1\" update-initramfs -u; cp \"$1\"/boot/vmlinuz-* {kernel}; cp \"$1\"/boot/initrd.img-* {initrd}; \
         rm -rf \"$1\"/var/cache/apt/* \"$1\"/var/lib/apt/lists/* \"$1\"/usr/share/doc/* \"$1\"/usr/share/locale/*; \
         mkdir {bind}; mount --bind \"$1\" {bind}; mkfs.ext4 -q -F -L root -d {bind} {root} {ROOT_SIZE}; umount {bind}; \
         rmdir {bind}; chmod a+r {kernel} {initrd} {root}",
        kernel = shown("vmlinuz"),
        initrd = shown("initrd.img"),
        root = shown("root.img"),
        bind = shown("bind"),
    );
    let mode = if crate::packages::is_root() { "--mode=root" } else { "--mode=unshare" };
    run(Command::new("mmdebstrap")
        .args([mode, "--variant=minbase", "--format=null"])
        .arg(format!("--include={PACKAGES}"))
        .args(["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*"])
        .arg(format!("--customize-hook=sh {} \"$1\"", setup.display()))
        .arg(format!("--customize-hook={finish}"))
        .args(["bookworm", "-"]))
    .context("mmdebstrap could not make the guests' Debian")?;
    Ok(())
}

impl Debian {
    /// A private copy of the root file system with a page of its own.
    ///
    /// # Errors
    /// When it cannot be copied or written.
    pub fn disk(&self, path: &Path, page: &str) -> Result<()> {
        run(Command::new("cp").arg("--sparse=always").arg(&self.root).arg(path))?;
        let text = path.with_extension("html");
        std::fs::write(&text, page)?;
        for request in
            ["rm /srv/www/index.html".to_string(), format!("write {} /srv/www/index.html", text.display())]
        {
            run(Command::new("debugfs").args(["-w", "-R", &request]).arg(path))?;
        }
        Ok(())
    }
}
