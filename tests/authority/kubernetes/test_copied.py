"""The ledger in memory: which objects a work touches, what is taken back, and what of others is taken."""

from collections.abc import Callable, Iterator

import pytest

from agent.authority import rotation
from agent.authority.kubernetes.copied import SEEN_SECONDS, CopiedBook, Touched
from agent.authority.kubernetes.objects import AgentRow, State, Token, bucket_of
from agent.authority.ledger import Issuance, Kind, Revoked, Trust

NOTHING = Touched(False, (), (), (), (), ())
WEB = "spiffe://example.test/ns/demo/sa/web"


def issuance(serial: str, expires: float = 1e10) -> Issuance:
    return Issuance(serial, WEB, "node-a", 1.0, expires, "aa")


@pytest.fixture
def book() -> Iterator[CopiedBook]:
    made = CopiedBook()
    yield made
    made.close()


def touched(book: CopiedBook, work: Callable[[], object]) -> Touched:
    """By a work in a round of its own, which is kept."""
    book.start_round()
    work()
    found = book.touched()
    book.keep_round()
    return found


def test_each_work_touches_the_objects_that_it_changes_and_no_other(book: CopiedBook) -> None:
    tokens: list[str] = []
    made = touched(book, lambda: tokens.append(book.create_token("node-a", 1e10)))
    (hashed,) = made.tokens
    assert made == Touched(False, (), (hashed,), (), (), ())
    used = touched(book, lambda: book.use_token(tokens[0], "node-a", 1.0))
    assert used == Touched(False, (), (hashed,), ("node-a",), (), ())
    assert touched(book, lambda: book.use_token(tokens[0], "node-a", 1.0)) == NOTHING
    assert touched(book, lambda: book.record(issuance("1"))) == Touched(False, (), (), (), (), ("1",))
    assert touched(book, lambda: book.revoke(Kind.SERIAL, "1", "leaked", 1.0)).state
    assert touched(book, lambda: book.revoke(Kind.SERIAL, "1", "leaked", 1.0)) == NOTHING
    assert touched(book, lambda: book.unrevoke(Kind.SERIAL, "1")).state
    assert touched(book, lambda: book.set_rotation(rotation.first(1.0))).state
    assert touched(book, lambda: book.publish(Trust(b"pem", "aa", 1e10), 1.0)).state
    assert touched(book, lambda: book.publish(None, 2.0)) == NOTHING, "nothing differs"
    assert touched(book, lambda: book.set_key("root-1.pem", b"pem")) == Touched(False, ("root-1.pem",), (), (), (), ())


def test_what_only_asks_touches_nothing(book: CopiedBook) -> None:
    def asks() -> None:
        book.agents()
        book.issued()
        book.knows_agent("node-a")
        book.token_problem("none", "node-a", 1.0)
        book.publication()

    assert touched(book, asks) == NOTHING


def test_what_an_agent_confirms_may_wait_and_that_it_joined_may_not(book: CopiedBook) -> None:
    token = book.create_token("node-a", 1e10)
    joined = touched(book, lambda: book.use_token(token, "node-a", 1.0))
    assert (joined.joined, joined.confirmed, joined.nothing) == (("node-a",), (), False)
    confirmed = touched(book, lambda: book.confirm("node-a", 3, ("aa",), 2.0))
    assert (confirmed.joined, confirmed.confirmed, confirmed.nothing) == ((), ("node-a",), True)
    assert touched(book, lambda: book.confirm("node-a", 3, ("aa",), 2.0 + SEEN_SECONDS)) == NOTHING
    assert touched(book, lambda: book.confirm("node-a", 3, ("aa",), 3.0 + SEEN_SECONDS)).confirmed == ("node-a",)


def test_only_records_and_confirmations_may_share_a_round(book: CopiedBook) -> None:
    token = book.create_token("node-a", 1e10)
    works: list[Callable[[], object]] = [
        lambda: book.record(issuance("1")),
        lambda: book.use_token(token, "node-a", 1.0),
    ]
    shareable = []
    book.start_round()
    for work in works:
        work()
        shareable.append(book.shareable)
    book.undo_round()
    assert shareable == [True, False]


def test_a_work_that_raises_did_nothing_and_the_others_of_its_round_did(book: CopiedBook) -> None:
    book.start_round()
    with book.work():
        book.record(issuance("1"))

    def fails() -> None:
        with book.work(), book.transaction():
            book.record(issuance("2"))
            book.revoke(Kind.AGENT, "node-a", "sold", 1.0)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fails()
    assert book.touched().issuances == ("1",)
    assert not book.touched().state
    book.keep_round()
    assert [each.serial for each in book.issued()] == ["1"]


def test_a_round_that_is_undone_leaves_nothing(book: CopiedBook) -> None:
    book.start_round()
    with book.work():
        book.record(issuance("1"))
        book.revoke(Kind.AGENT, "node-b", "sold", 1.0)
    book.undo_round()
    assert (book.issued(), book.revocations()) == ([], [])
    assert touched(book, lambda: None) == NOTHING


def test_what_is_taken_from_others_is_no_work_of_ours(book: CopiedBook) -> None:
    book.take_state(State("example.test", {}, [("agent", "node-a", "sold", 1.0)], {}), {"root-1.pem": b"pem"})
    book.take_token(b"h", Token(b"h", "node-a", 1.0, None))
    book.take_agents([AgentRow("node-a", 1.0, 1.0, 0, "")])
    book.take_issued((), [issuance("1")])
    assert touched(book, lambda: None) == NOTHING


def test_a_state_is_taken_as_a_whole(book: CopiedBook) -> None:
    book.start_round()
    book.set_rotation(rotation.first(5.0))
    book.revoke(Kind.AGENT, "node-a", "sold", 1.0)
    book.set_key("root-1.pem", b"pem")
    state = book.state("example.test", {"root-1.pem": "q-ca-root-1-00"})
    book.keep_round()
    other = CopiedBook()
    other.revoke(Kind.AGENT, "node-b", "sold", 1.0)
    other.take_state(state, {"root-1.pem": b"pem"})
    assert other.state("example.test", {"root-1.pem": "q-ca-root-1-00"}) == state
    assert [each.value for each in other.revocations()] == ["node-a"]
    with pytest.raises(Revoked):
        other.record(issuance("1"))
    other.take_state(None, {})
    assert (other.revocations(), other.key("root-1.pem"), other.has_begun()) == ([], None, False)
    other.close()


ROW = AgentRow("node-a", 10.0, 20.0, 3, "aa")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (AgentRow("node-a", 10.0, 21.0, 4, "bb"), False),
        (AgentRow("node-a", 10.0, 19.0, 4, "bb"), True),
        (AgentRow("node-a", 11.0, 11.0, 0, ""), False),
        (AgentRow("node-a", 9.0, 99.0, 9, "cc"), True),
        (ROW, True),
    ],
    ids=["heard later", "heard before", "joined anew", "from before it joined anew", "the same"],
)
def test_of_two_rows_of_one_agent_the_newer_counts(book: CopiedBook, theirs: AgentRow, ours: bool) -> None:
    book.take_agents([ROW])
    book.take_agents([theirs])
    assert book.agents_in(bucket_of("node-a")) == [ROW if ours else theirs]


def test_agents_of_which_another_knows_nothing_stay(book: CopiedBook) -> None:
    book.take_agents([ROW])
    book.take_agents([])
    assert book.knows_agent("node-a")


def test_a_record_that_is_taken_replaces_the_former_one_of_its_object(book: CopiedBook) -> None:
    book.take_issued((), [issuance("1"), issuance("2")])
    book.take_issued((), [issuance("3")])
    book.take_issued(("1", "2"), [issuance("2")])
    assert {each.serial for each in book.issued()} == {"2", "3"}
    assert book.issuances(["1", "3"]) == [issuance("3")]


def test_a_token_that_is_gone_is_unknown(book: CopiedBook) -> None:
    token = book.create_token("node-a", 1e10)
    (hashed,) = (row.hash for row in [book.token(key) for key in _hashes(book)] if row is not None)
    book.take_token(hashed, None)
    assert book.token_problem(token, "node-a", 1.0) == "the join token is unknown"
    assert book.token(hashed) is None


def _hashes(book: CopiedBook) -> list[bytes]:
    return [row[0] for row in book._db.execute("SELECT hash FROM tokens")]


def test_serials_that_expired_long_ago_are_revoked_no_more_and_others_are(book: CopiedBook) -> None:
    book.take_issued((), [issuance("1", expires=10.0), issuance("2", expires=30.0)])
    for serial in ("1", "2", "unknown"):
        book.revoke(Kind.SERIAL, serial, "leaked", 1.0)
    book.revoke(Kind.SPIFFE_ID, WEB, "leaked", 1.0)
    assert book.forget_serials(20.0) == 1
    assert {each.value for each in book.revocations()} == {"2", "unknown", WEB}
