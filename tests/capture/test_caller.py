"""What the kernel says of a process, and what the process cannot make it say."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture import caller as module
from agent.capture.caller import CallerUnknown, identify, look_at, pod_of
from agent.capture.netns import NetnsId, host_netns

UID = "0a1b2c3d-1111-2222-3333-444455556666"
UNDERSCORED = UID.replace("-", "_")
OTHER = "ffffffff-1111-2222-3333-444455556666"


@pytest.mark.parametrize(
    ("path", "uid"),
    [
        (f"/kubepods/burstable/pod{UID}/0123456789abcdef", UID),
        (f"/kubepods/pod{UID}/0123456789abcdef", UID),
        (
            f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/cri-containerd-0.scope",
            UID,
        ),
        (f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDERSCORED}.slice/crio-0.scope", UID),
        (f"/../../kubepods/besteffort/pod{UID}/0", UID),  # seen from within a cgroup namespace
        (f"/../../kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/cri-containerd-0.scope", UID),
        (f"/../kubepods-besteffort-pod{UNDERSCORED}.slice/cri-containerd-0.scope", UID),
        (f"/docker/0123456789abcdef/kubepods/pod{UID}", None),  # groups that a container made in its own
        (f"/system.slice/crio-0.scope/kubepods.slice/kubepods-pod{UNDERSCORED}.slice", None),
        (f"/../pod{OTHER}/0/kubepods/pod{UID}", None),  # by an agent whose namespace hides that it is all the kubelet's
        ("/kubepods/pod0123456789abcdef0123456789abcdef/0", "0123456789abcdef0123456789abcdef"),  # a static pod
        # What is made further in is the container's own doing.
        (f"/kubepods/pod{UID}/0/kubepods/pod{OTHER}", UID),
        # What is not under the kubelet's groups is nobody's.
        (f"/user.slice/pod{UID}", None),
        (f"/pod{UID}/kubepods", None),
        ("/kubepods/podx", None),
        (f"/kubepods/pod{UID}\n", None),
        (f"/kubepods/spod{UID}", None),
        ("/", None),
        ("", None),
    ],
)
def test_the_kubelets_cgroup_names_the_pod(path: str, uid: str | None) -> None:
    if "\n" in path:
        assert module._pod_in(path) is None
    else:
        assert pod_of(f"9:name=systemd:/\n4:memory:{path}\n0::/\n") == uid
        assert pod_of(f"0::{path}\n") == uid


def test_two_pods_at_once_are_nobody() -> None:
    with pytest.raises(CallerUnknown, match="several pods"):
        pod_of(f"3:pids:/kubepods/pod{UID}\n2:memory:/kubepods/pod{OTHER}\n")


@given(st.text())
def test_whatever_a_cgroup_is_called_it_raises_nothing_else(text: str) -> None:
    with contextlib.suppress(CallerUnknown):
        found = pod_of(text)
        assert found is None or found in text.replace("_", "-")


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def test_a_process_of_the_host_is_told_by_the_kernel() -> None:
    ours, theirs = pair()
    with ours, theirs:
        found = identify(ours)
    assert (found.pid, found.uid, found.netns, found.pod_uid) == (os.getpid(), os.geteuid(), host_netns(), None)


def test_an_older_kernel_gives_no_pidfd_and_the_process_is_held_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SO_PEERPIDFD", 9999)
    ours, theirs = pair()
    with ours, theirs:
        assert identify(ours).pid == os.getpid()


CONNECT = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.readline()
"""


def connected_by(path: Path, *prefix: str) -> module.Caller:
    """Who is found at the other end of a connection that a process of its own makes, with `prefix` before it."""
    return found_by(path, *prefix, sys.executable, "-c", CONNECT, str(path))


def found_by(path: Path, *command: str) -> module.Caller:
    """The same for a command that connects to this path as `CONNECT` does."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            try:
                assert process.stdout.readline() == b"connected\n"
                client, _ = listener.accept()
                with client:
                    return identify(client)
            finally:
                process.stdin.close()
                process.wait(10)


@pytest.mark.netns
def test_root_of_this_host_administers_it_and_root_in_a_user_namespace_or_without_capabilities_does_not(
    tmp_path: Path,
) -> None:
    """Each of these could send a descriptor of a namespace that it made itself, with any address in it."""
    assert connected_by(tmp_path / "a").administers
    fake = connected_by(tmp_path / "b", "unshare", "--user", "--map-root-user", "--net")
    assert not fake.administers
    assert fake.netns != host_netns()
    dropped = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    assert not connected_by(tmp_path / "c", *dropped).administers


@pytest.mark.netns
def test_a_process_in_another_root_directory_is_a_containers(tmp_path: Path) -> None:
    """Its socket is mounted there, as in a pod's init step."""
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    script = (
        f"mount -t tmpfs none {overlay} && mkdir {overlay}/upper {overlay}/work {overlay}/merged && "
        f"mount -t overlay none -o lowerdir=/,upperdir={overlay}/upper,workdir={overlay}/work {overlay}/merged && "
        f"mount --rbind {tmp_path} {overlay}/merged/mnt && mount --bind /dev {overlay}/merged/dev && "
        f'exec chroot {overlay}/merged "$@"'
    )
    inside = ("/usr/bin/python3", "-c", CONNECT, "/mnt/d")
    found = found_by(tmp_path / "d", "unshare", "--mount", "sh", "-c", script, "sh", *inside)
    assert not found.administers
    assert found.netns == host_netns()


def test_a_process_that_has_ended_is_nobody(tmp_path: Path) -> None:
    path = tmp_path / "e"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        subprocess.run(
            [sys.executable, "-c", CONNECT, str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
        )
        client, _ = listener.accept()
        with client, pytest.raises(CallerUnknown):
            identify(client)


def test_a_process_that_may_not_be_looked_at_is_nobody(tmp_path: Path) -> None:
    for part in ("cgroup", "status"):
        (tmp_path / part).write_text("0::/\nCapEff:\t000001ffffffffff\n")
    with pytest.raises(CallerUnknown, match="process 7 cannot be looked at"):
        look_at(tmp_path, 7, 0)


def test_a_status_without_capabilities_administers_nothing(tmp_path: Path) -> None:
    (tmp_path / "ns").mkdir()
    for part in ("ns/net", "ns/user", "root"):
        (tmp_path / part).symlink_to(f"/proc/self/{part}")
    (tmp_path / "cgroup").write_text("0::/\n")
    (tmp_path / "status").write_text("Name:\tx\n")
    status = os.stat("/proc/self/ns/net")
    found = look_at(tmp_path, 7, 0)
    assert (found.netns, found.administers) == (NetnsId(status.st_dev, status.st_ino), False)
    (tmp_path / "status").write_text("CapEff:\t000001ffffffffff\n")
    assert look_at(tmp_path, 7, 0).administers


def test_credentials_are_the_kernels() -> None:
    ours, theirs = pair()
    with ours, theirs:
        raw = ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert module.credentials(ours) == struct.unpack("3i", raw)[:2]
