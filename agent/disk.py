"""What to say where something cannot be written: the cause, and what to do about it."""

import errno
import sqlite3

_ADVICE = {
    errno.ENOSPC: "make room there, of bytes and of inodes (df, df -i)",
    errno.EDQUOT: "make room there, or raise the quota",
    errno.EROFS: "it is mounted read-only: mount it read-write (mount -o remount,rw)",
    errno.EACCES: "let the agent's user write there",
    errno.EPERM: "let the agent's user write there, and take an immutable flag away (lsattr)",
    errno.EIO: "the disk has failed: look into the kernel's log",
    errno.EEXIST: "something else than a directory is there: move it away",
    errno.ENOTDIR: "something else than a directory is there: move it away",
}


def reason(error: OSError) -> str:
    """In the kernel's words, with the file where it is known, and the next step where one is known. Pure."""
    named = "" if error.filename is None else f" ({error.filename})"
    advice = _ADVICE.get(error.errno or 0)
    what = error.strerror or next((str(each) for each in error.args if each is not None), "no reason is given")
    return f"{what}{named}" + ("" if advice is None else f": {advice}")


def reason_of_ledger(error: sqlite3.Error) -> str:
    """The same of SQLite's own errors, which name neither a file nor the kernel's error. Pure."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return f"{error}: {_ADVICE[errno.ENOSPC]}"
    if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")):
        return (
            f"{error}: look whether there is room (df, df -i), the disk is mounted read-write, and what the kernel says"
        )
    return str(error)
