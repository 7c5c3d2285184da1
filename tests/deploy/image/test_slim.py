"""What of a package is in the image, and what is not."""

import pytest

from deploy.image import slim


@pytest.mark.parametrize(
    "path",
    [
        "usr/lib/x86_64-linux-gnu/libc.so.6",
        "usr/lib/x86_64-linux-gnu/xtables/libxt_multiport.so",
        "usr/sbin/nft",
        "usr/bin/python3.11",
        "usr/lib/python3.11/asyncio/base_events.py",
        "usr/lib/python3.11/unittest/mock.py",
        "usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so",
        "usr/local/lib/python3.11/dist-packages/agent/tls/_openssl.cpython-311-x86_64-linux-gnu.so",
        "usr/local/lib/python3.11/dist-packages/uvloop/includes/__init__.py",
        "usr/local/lib/python3.11/dist-packages/quietwire-0.1.0.dist-info/METADATA",
        "usr/local/lib/python3.11/dist-packages/click/testing.py",
        "usr/share/doc/libc6/copyright",
    ],
)
def test_what_runs_and_whose_it_is_is_kept(path: str) -> None:
    assert slim.is_kept(path)


@pytest.mark.parametrize(
    "path",
    [
        "usr/bin/ldd",
        "usr/sbin/ldconfig",
        "usr/lib/locale/C.utf8/LC_CTYPE",
        "usr/lib/x86_64-linux-gnu/gconv/UTF-16.so",
        "usr/share/doc/libc6/changelog.Debian.gz",
        "usr/share/man/man8/nft.8.gz",
        "usr/share/locale/de/LC_MESSAGES/libc.mo",
        "usr/lib/python3.11/test/support/__init__.py",
        "usr/lib/python3.11/config-3.11-x86_64-linux-gnu/Makefile",
        "usr/lib/python3.11/ensurepip/__init__.py",
        "usr/local/lib/python3.11/dist-packages/x/tests/test_x.py",
        "usr/local/lib/python3.11/dist-packages/x/__pycache__/x.cpython-311.pyc",
        "usr/local/lib/python3.11/dist-packages/agent/tls/_openssl.pyx",
        "usr/local/lib/python3.11/dist-packages/h11-0.16.0.dist-info/RECORD",
    ],
)
def test_documents_locales_tests_sources_and_other_programs_are_not(path: str) -> None:
    assert not slim.is_kept(path)


@pytest.mark.parametrize(
    ("packed", "there"),
    [("./lib/x/libc.so.6", "usr/lib/x/libc.so.6"), ("./usr/sbin/nft", "usr/sbin/nft"), ("./sbin/a", "usr/sbin/a")],
)
def test_what_older_packages_have_at_the_top_is_below_usr(packed: str, there: str) -> None:
    assert slim.merged(packed) == there


def test_a_package_writes_nowhere_but_in_the_image() -> None:
    with pytest.raises(ValueError, match="leads out of the image"):
        slim.merged("./usr/../../etc/passwd")
