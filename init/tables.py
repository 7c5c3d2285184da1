"""Whether a namespace's tables are, to the byte, what they were when all was found in force: without libxtables.

To read rules through libxtables takes milliseconds for each table, and an agent with 300 pods verifies 1800 of them
every half minute. The kernel gives a table's bytes in microseconds (getsockopt(2) with the options of
linux/netfilter_ipv4/ip_tables.h and its IPv6 twin). Only counters differ in tables that nobody has written to.
"""

import ctypes
import hashlib
import os
import socket
import struct

from init import legacy
from init.model import Chain, Family, Options, chains

SO_GET_INFO = 64
SO_GET_ENTRIES = 65

_INFO = struct.Struct("@32sI5I5III")
"""struct ipt_getinfo: the table's name, hooks, entries of hooks, underflows, number of entries, their bytes."""
_ENTRIES = struct.Struct("@32sI0Q")
"""struct ipt_get_entries: the table's name, the bytes of the entries that follow."""
_ENTRY = {Family.IPV4: struct.Struct("@84xIHHIQQ"), Family.IPV6: struct.Struct("@136xIHHIQQ")}
"""struct ipt_entry, ip6t_entry: the match, cache, offsets of the target and of the next entry, origin, two counters."""
_COUNTERS_BYTES = 16
_SOCKET = {Family.IPV4: (socket.AF_INET, socket.IPPROTO_IP), Family.IPV6: (socket.AF_INET6, socket.IPPROTO_IPV6)}

_libc = ctypes.CDLL(None, use_errno=True)


def fingerprints(family: Family, options: Options | None) -> dict[str, str] | None:
    """By table, a digest of what is wanted there and of what is there now, in the current namespace.

    `options` is None where nothing of ours is wanted. None where the kernel does not give the tables, or somebody
    writes to them at this very moment.
    """
    domain, level = _SOCKET[family]
    wanted = chains(family, Options() if options is None else options)
    found = {}
    try:
        with socket.socket(domain, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            for table in dict.fromkeys(chain.hook.table for chain in wanted):
                content = _content(sock.fileno(), level, table)
                if not zero_counters(content, _ENTRY[family]):
                    return None
                digest = hashlib.sha256(content)
                if options is not None:
                    digest.update(_words([chain for chain in wanted if chain.hook.table == table]))
                found[table] = digest.hexdigest()
    except OSError:  # nothing is known, so all is read through libxtables
        return None
    return found


def entries(family: Family, table: str) -> int:
    """How many rules and ends of chains a table has in the current namespace, without reading them. Raises OSError."""
    domain, level = _SOCKET[family]
    with socket.socket(domain, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        *_, count, _ = _INFO.unpack(_info(sock.fileno(), level, table))
    return int(count)


def zero_counters(content: bytearray, entry: struct.Struct) -> bool:
    """Sets the counters of all entries to zero, in place; False where the bytes are no whole entries."""
    at = 0
    while at < len(content):
        if at + entry.size > len(content):
            return False
        _, _, length, *_ = entry.unpack_from(content, at)
        if length < entry.size:
            return False
        content[at + entry.size - _COUNTERS_BYTES : at + entry.size] = bytes(_COUNTERS_BYTES)
        at += length
    return at == len(content)


def _words(wanted: list[Chain]) -> bytes:
    """What is wanted, in the words in which it is written: another version of us may want, or write, something else."""
    said = [(each.hook.value, legacy.jump(each), [legacy.spec(rule) for rule in each.rules]) for each in wanted]
    return repr(said).encode()


def _content(fd: int, level: int, table: str) -> bytearray:
    """The bytes of a table's entries. Raises OSError; EAGAIN where the table has changed in size meanwhile."""
    *_, size = _INFO.unpack(_info(fd, level, table))
    content = ctypes.create_string_buffer(_ENTRIES.pack(table.encode(), size), _ENTRIES.size + size)
    _getsockopt(fd, level, SO_GET_ENTRIES, content)
    return bytearray(content.raw[_ENTRIES.size :])


def _info(fd: int, level: int, table: str) -> bytes:
    info = ctypes.create_string_buffer(_INFO.pack(table.encode(), *[0] * 13), _INFO.size)
    _getsockopt(fd, level, SO_GET_INFO, info)
    return info.raw


def _getsockopt(fd: int, level: int, option: int, buffer: "ctypes.Array[ctypes.c_char]") -> None:
    """getsockopt(2), which reads from the buffer what is asked for: Python's own cannot."""
    length = ctypes.c_uint(len(buffer))
    if _libc.getsockopt(fd, level, option, buffer, ctypes.byref(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
