"""What of a file is read anew, and what stays as it was read before."""

from agent.catalog.sources.files.reading import read


def test_the_same_item_in_another_list_is_read_anew() -> None:
    def listed(kind: str) -> bytes:
        return f"apiVersion: v1\nkind: {kind}List\nitems:\n- metadata: {{name: a}}\n".encode()

    _, pieces = read(listed("Pod"), {})
    reading, _ = read(listed("Service"), pieces)
    assert [str(key) for key in reading.claims] == ["Service default/a"]
