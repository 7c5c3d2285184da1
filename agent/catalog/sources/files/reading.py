"""One file's bytes, and what they say: pure. Pieces that were read before are not parsed again."""

import hashlib
import logging
from collections.abc import Iterable, Mapping

from msgspec import Struct

from agent.catalog.standing import Claim, Nameless, Reading
from agent.manifests.document import Budget, ListType, documents, json_tree, unfold
from agent.manifests.parts import Part, parts
from agent.objects import fields, meanings
from agent.objects.decode import RawObject, concerns_mesh, decode, key_of, may_forbid
from agent.objects.field import FaultError, Field
from agent.objects.key import ObjectKey

log = logging.getLogger("quietwire.catalog")

WHOLE_LIST = 1024 * 1024
"""Bytes up to which a list, one of whose items makes no sense alone, is read as a whole: it may use aliases."""
_NO_LIST = ListType()


class Decoded(Struct, frozen=True):
    """What one document gave; `line` counts within its piece. Without a key, `forbids` is as for `Nameless`."""

    line: int
    key: ObjectKey | None = None
    found: RawObject | None = None
    fault: str = ""
    stand_in: RawObject | None = None
    forbids: bool = True
    remarks: tuple[tuple[int, str], ...] = ()
    """Lines within the piece, and words."""


class Piece(Struct, frozen=True):
    """One document of a file or one item of a list, and what it gave: nothing, where it means nothing to a mesh."""

    digest: bytes
    decoded: tuple[Decoded, ...]
    parsed: bool = True
    """Whether it is YAML or JSON at all."""


Pieces = Mapping[bytes, Piece]
"""By digest."""


def read(data: bytes, former: Pieces) -> tuple[Reading, Pieces]:
    """What a file says, and its pieces for the next time."""
    budget = Budget(len(data))
    pieces: dict[bytes, Piece] = {}
    claims: dict[ObjectKey, Claim] = {}
    repeats: list[tuple[ObjectKey, Claim]] = []
    finished: set[ObjectKey] = set()
    nameless: list[Nameless] = []
    remarks: list[tuple[int, ObjectKey, str]] = []
    for number, part in enumerate(parts(data), 1):
        for before, piece in _pieces(part, budget, former):
            pieces[piece.digest] = piece
            for each in piece.decoded:
                line = before + each.line
                if each.key is None:
                    where = f"document {number}: " if number > 1 and not piece.parsed else ""
                    nameless.append(Nameless(piece.digest, line, where + each.fault, each.forbids))
                elif each.found is None and not each.fault:
                    finished.add(each.key)
                elif each.key in claims:
                    repeats.append((each.key, Claim(line, each.found, each.fault, each.stand_in)))
                else:
                    claims[each.key] = Claim(line, each.found, each.fault, each.stand_in)
                    remarks.extend((before + at, each.key, words) for at, words in each.remarks)
    return Reading(claims, tuple(repeats), frozenset(finished), tuple(nameless), tuple(remarks)), pieces


def _pieces(part: Part, budget: Budget, former: Pieces) -> list[tuple[int, Piece]]:
    if not part.items:
        return [(part.before, _piece(part.data, budget, former))]
    found = [(before, _piece(item, budget, former, part.of_list)) for before, item in part.items]
    if len(part.data) <= WHOLE_LIST and not all(piece.parsed for _, piece in found):
        whole = _piece(part.data, budget, former)
        if whole.parsed:
            return [(part.before, whole)]
    return found


def _piece(data: bytes, budget: Budget, former: Pieces, of_list: ListType = _NO_LIST) -> Piece:
    digest = hashlib.blake2b("\0".join((*of_list, "")).encode(errors="surrogatepass") + data, digest_size=16).digest()
    known = former.get(digest)
    if known is not None:
        return known
    try:
        return Piece(digest, _decoded(data, budget, of_list))
    except FaultError as fault:
        return Piece(digest, (Decoded(fault.line, fault=fault.reason),), parsed=False)
    except Exception as error:  # bytes that nobody thought of must not end the following of all others
        log.exception("a manifest could not be parsed by a fault of ours")
        return Piece(digest, (Decoded(1, fault=_ours(error)),), parsed=False)


def _decoded(data: bytes, budget: Budget, of_list: ListType) -> tuple[Decoded, ...]:
    """The documents of a piece. JSON is parsed as such, and as YAML where the lines of faults are wanted."""
    tree = json_tree(data, budget)
    if tree is None:
        return _all(documents(data, budget), of_list)
    quick = _all(unfold(tree), of_list)
    if not any(each.fault for each in quick):
        return quick
    try:
        slow = _all(documents(data, Budget(len(data))), of_list)
    except FaultError:
        return quick
    return slow if len(slow) == len(quick) and any(each.fault for each in slow) else quick


def _all(found: Iterable[Field], of_list: ListType) -> tuple[Decoded, ...]:
    given = map(of_list.given_to, found)
    return tuple(decoded for document in given if (decoded := _decode(document)) is not None)


def _decode(document: Field) -> Decoded | None:
    """What one document gives; None where it means nothing to a mesh."""
    key: ObjectKey | None = None
    line = document.line or 1
    forbids = True
    try:
        forbids = may_forbid(document)
        if not concerns_mesh(document):
            return None
        key = key_of(document)
        found = decode(key, document)
        said = () if found is None else (*meanings.remarks(key.kind, document), *fields.remarks(key.kind, document))
        remarks = tuple((at or line, words) for at, words in said)
        return Decoded(line, key, found, remarks=remarks)
    except FaultError as fault:
        return Decoded(fault.line or line, key, None, fault.reason, fault.stand_in, forbids)
    except Exception as error:  # an object that nobody thought of must not end all others
        log.exception("a manifest could not be read by a fault of ours")
        return Decoded(line, key, None, _ours(error), None, forbids)


def _ours(error: Exception) -> str:
    return f"cannot be used, by a fault of the agent ({type(error).__name__}: {error})"
