"""Which mounts are reported, and what is asked of them."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.host.filesystem import (
    LIMIT,
    ROOT,
    UTILIZATION,
    Filesystem,
    Mount,
    parse_mounts,
    select,
)
from edge_agent.host.machine import Machine
from tests.agent.host.trees import plant, values


def points(table: str | bytes, exclude: tuple[str, ...] = ()) -> list[str]:
    """The mount points reported of a mount table without its last two columns."""
    raw = table.encode() if isinstance(table, str) else table
    lines = b"".join(line + b" 0 0\n" for line in raw.splitlines())
    return [mount.point for mount in select(parse_mounts(lines), exclude)]


@pytest.mark.parametrize(
    ("device", "kind", "reported"),
    [
        ("/dev/sda1", "ext4", True),
        ("/dev/sda1", "fuseblk", True),
        ("/dev/sda1", "f2fs", True),
        ("tank/data", "zfs", True),
        ("ubi0:rootfs", "ubifs", True),
        ("nas:/export", "nfs4", True),
        ("//nas/share", "cifs", True),
        ("joe@nas:/", "fuse.sshfs", True),
        ("share", "virtiofs", True),
        ("/dev/loop3", "squashfs", False),
        ("/dev/sr0", "iso9660", False),
        ("/dev/fuse", "fuse", False),
        ("portal", "fuse.portal", False),
        ("/dev/mapper/x", "fuse.thing", False),
        ("tmpfs", "tmpfs", False),
        ("overlay", "overlay", False),
        ("systemd-1", "autofs", False),
        ("cgroup2", "cgroup2", False),
        ("udev", "devtmpfs", False),
    ],
)
def test_what_can_fill_up_is_reported(device: str, kind: str, reported: bool) -> None:
    """Block-device and network file systems; not images, views, memory and kernel interfaces."""
    assert points(f"{device} /x {kind} rw") == (["/x"] if reported else [])


@pytest.mark.parametrize("kind", ["overlay", "tmpfs", "squashfs", "ext4", "rootfs"])
def test_the_root_is_always_reported(kind: str) -> None:
    """Whatever it is, and whatever is excluded."""
    assert points(f"none / {kind} rw", exclude=("*",)) == ["/"]


def test_each_device_counts_once_at_its_shortest_mount_point() -> None:
    """Bind mounts, btrfs subvolumes and a device mounted again are the same space."""
    table = "/dev/sda2 /home btrfs rw,subvol=/home\n/dev/sda2 / btrfs rw,subvol=/root\n"
    table += "/dev/sdb1 /srv/data/sub ext4 rw\n/dev/sdb1 /srv/data ext4 rw\n"
    assert points(table) == ["/", "/srv/data"]


def test_a_later_mount_hides_what_was_on_its_point() -> None:
    """rootfs under the real root, and a disk mounted over another."""
    table = (
        "rootfs / rootfs rw\n/dev/sda1 / ext4 ro\n/dev/sdb1 /mnt ext4 rw\n/dev/sdc1 /mnt xfs rw\n"
    )
    mounts = select(parse_mounts(table.encode()), ())
    assert [(mount.device, mount.mode) for mount in mounts] == [
        ("/dev/sda1", "ro"),
        ("/dev/sdc1", "rw"),
    ]


def test_an_automount_is_never_triggered() -> None:
    """Its point is not asked, nor is what lies behind it; what it has mounted is."""
    table = "/dev/sda1 / ext4 rw\n/dev/sdb1 /net/a ext4 rw\nauto /net autofs rw\n"
    assert points(table) == ["/"]
    assert points(table + "nas:/a /net/a nfs rw\n") == ["/", "/net/a"]
    assert points("auto /nas autofs rw\nnas:/x /nas nfs4 rw\n") == ["/nas"]


def test_names_are_unescaped_and_what_is_not_utf8_is_shown(tmp_path: Path) -> None:
    r"""The table has `\040` for a blank; the path asked is the kernel's, byte for byte."""
    raw = b"/dev/sda1 /my\\040disk\\134x" + b"\xe9\\9 ext4 rw"
    assert points(raw) == [r"/my disk\x" + r"\xe9\9"]
    asked = []

    def statvfs(path: str) -> os.statvfs_result:
        asked.append(os.fsencode(path))
        raise PermissionError

    machine = plant(tmp_path, {"proc/self/mounts": raw + b" 0 0\n"})
    filesystem = Filesystem(replace(machine, statvfs=statvfs))
    root, mount = filesystem.mounts()
    assert root == ROOT
    assert filesystem.usage(mount) is None
    assert asked == [os.fsencode(machine.root) + b"/my disk\\x\xe9\\9"]


def test_network_file_systems_are_asked_last() -> None:
    """What waits for a server must not make the disks wait."""
    table = "nas:/a /a nfs rw\n/dev/sda1 /longer/than/that ext4 rw\n"
    assert points(table) == ["/longer/than/that", "/a"]


def test_excluded_mounts_are_globs() -> None:
    """telemetry.metrics.exclude_mounts: not even asked."""
    table = "/dev/sda1 / ext4 rw\n/dev/sdb1 /media/usb ext4 rw\n/dev/sdc1 /srv ext4 rw\n"
    assert points(table, exclude=("/media/*", "/mnt")) == ["/", "/srv"]


def test_a_damaged_line_is_skipped() -> None:
    """The table is the kernel's, but a recorded one may be cut."""
    table = b"/dev/sda1 / ext4 rw 0 0\n/dev/sdb1 /x"
    assert [mount.path for mount in parse_mounts(table)] == [b"/"]


def answer(blocks: int, free: int, available: int, fsid: int = 1) -> os.statvfs_result:
    """What statvfs says, in units of 4 KiB."""
    return os.statvfs_result((4096, 4096, blocks, free, available, 0, 0, 0, 0, 255, fsid))


@pytest.mark.parametrize("given", [(0, 0, 0), (10, 11, 5), (10, 5, 6), (10, 5, -1)])
def test_sizes_that_cannot_be_are_omitted(given: tuple[int, int, int]) -> None:
    """Nothing there, more free than there is, more for users than free."""
    filesystem = Filesystem(Machine(statvfs=lambda _: answer(*given)))
    assert filesystem.usage(Mount("/dev/sda1", b"/", "ext4", "rw")) is None


def test_a_root_without_the_hosts_mounts_does_not_speak_for_them() -> None:
    """HOST_ROOT not mounted recursively: each path answers as `/`, so only `/` is reported."""
    answers = {"/host/": answer(100, 50, 40), "/host/data": answer(100, 50, 40)}
    filesystem = Filesystem(Machine(root="/host", statvfs=answers.__getitem__))
    mounts = [Mount("/dev/sda1", b"/", "ext4", "rw"), Mount("/dev/sdb1", b"/data", "ext4", "rw")]
    usages = [(mount, usage) for mount in mounts if (usage := filesystem.usage(mount))]
    readings = list(filesystem.readings(usages))
    assert set(values(readings, LIMIT, "system.filesystem.mountpoint")) == {"/"}
    assert values(readings, UTILIZATION, "system.filesystem.state") == {"used": 0.5}
    assert filesystem.used_bytes == {"/": 50 * 4096}


def test_a_table_without_the_root_does_not_hide_it(tmp_path: Path) -> None:
    """Seen from a chroot `/` is no mount point: its size is reported, what is unknown left out."""
    machine = plant(tmp_path, {"proc/self/mounts": b"/dev/sdb1 /data ext4 rw 0 0\n"})
    filesystem = Filesystem(replace(machine, statvfs=lambda _: answer(100, 50, 40)))
    root, data = filesystem.mounts()
    assert data.point == "/data"
    usage = filesystem.usage(root)
    assert usage is not None
    assert [reading.attributes for reading in filesystem.readings([(root, usage)])][-2:] == [
        (("system.filesystem.state", "used"), ("system.filesystem.mountpoint", "/")),
        (("system.filesystem.mountpoint", "/"),),
    ]


def test_without_a_mount_table_the_subject_fails(tmp_path: Path) -> None:
    """An agent that sees no file system at all has to say so."""
    with pytest.raises(FileNotFoundError):
        Filesystem(plant(tmp_path, {})).mounts()
