"""Where the API server is and who we are: what pods are told, what kubeconfigs say, and what is no sound one."""

import base64
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.kubernetes.access import AccessError, Material, from_kubeconfig, in_cluster, kubeconfig_files

CA = b"-----BEGIN CERTIFICATE-----"


def written(path: Path, *, user: object = None, cluster: object = None, **more: object) -> Path:
    """A kubeconfig with one context."""
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [
                    {"name": "c", "cluster": {"server": "https://192.0.2.1:6443"} if cluster is None else cluster}
                ],
                "users": [{"name": "u", "user": {"token": "secret"} if user is None else user}],
                **more,
            }
        )
    )
    return path


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    """What the kubelet mounts into a pod."""
    for name, content in (("token", "t"), ("ca.crt", "c"), ("namespace", "mesh\n")):
        (tmp_path / name).write_text(content)
    return tmp_path


IN_POD = {"KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "443"}


def test_a_pod_finds_what_the_kubelet_gives_it(pod: Path) -> None:
    access = in_cluster(IN_POD, pod)
    assert (access.host, access.port, access.namespace) == ("192.0.2.1", 443, "mesh")
    assert access.token == Material(file=str(pod / "token"))
    assert access.ca == Material(file=str(pod / "ca.crt"))


def test_an_ipv6_address_is_printed_as_one(pod: Path) -> None:
    access = in_cluster({**IN_POD, "KUBERNETES_SERVICE_HOST": "2001:db8::1"}, pod)
    assert access.address == "https://[2001:db8::1]:443"


def test_outside_a_pod_it_says_what_to_give(pod: Path) -> None:
    with pytest.raises(AccessError, match="--kubeconfig"):
        in_cluster({}, pod)


@pytest.mark.parametrize("port", ["", "0", "65536", "https", "-1"])
def test_a_port_that_is_none_is_named(pod: Path, port: str) -> None:
    with pytest.raises(AccessError, match="KUBERNETES_SERVICE_PORT"):
        in_cluster({**IN_POD, "KUBERNETES_SERVICE_PORT": port}, pod)


def test_a_pod_without_a_token_is_told_why(pod: Path) -> None:
    (pod / "token").unlink()
    with pytest.raises(AccessError, match="automountServiceAccountToken"):
        in_cluster(IN_POD, pod)


def test_what_stands_in_a_kubeconfig_itself(tmp_path: Path) -> None:
    encoded = base64.b64encode(CA).decode()
    file = written(
        tmp_path / "config",
        cluster={
            "server": "https://api.example:8443/k8s/",
            "certificate-authority-data": encoded,
            "tls-server-name": "x",
        },
        user={"client-certificate-data": encoded, "client-key-data": encoded},
    )
    access = from_kubeconfig([file])
    assert (access.host, access.port, access.path, access.server_name) == ("api.example", 8443, "/k8s", "x")
    assert access.ca == access.certificate == access.key == Material(data=CA)


def test_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    file = written(
        tmp_path / "config",
        cluster={"server": "https://api.example", "certificate-authority": "pki/ca.crt"},
        user={"tokenFile": "/run/token"},
    )
    access = from_kubeconfig([file])
    assert access.ca == Material(file=str(tmp_path / "pki/ca.crt"))
    assert access.token == Material(file="/run/token")
    assert access.port == 443


def test_of_several_files_the_first_that_has_a_name_says_what_it_is(tmp_path: Path) -> None:
    first = written(tmp_path / "first", cluster={"server": "https://first.example"})
    second = written(tmp_path / "second", cluster={"server": "https://second.example"}, **{"current-context": "other"})
    assert from_kubeconfig([tmp_path / "missing", first, second]).host == "first.example"
    assert from_kubeconfig([second, first], "here").host == "second.example"


def test_a_context_may_be_named(tmp_path: Path) -> None:
    file = written(tmp_path / "config", contexts=[{"name": "a", "context": {"cluster": "c", "namespace": "mesh"}}])
    assert from_kubeconfig([file], "a").namespace == "mesh"
    with pytest.raises(AccessError, match=r"no context 'b' \(known: a\)"):
        from_kubeconfig([file], "b")


def test_a_program_that_gives_the_credential(tmp_path: Path) -> None:
    file = written(
        tmp_path / "config",
        user={"exec": {"command": "bin/login", "args": ["--now"], "env": [{"name": "A", "value": "b"}]}},
    )
    command = from_kubeconfig([file]).command
    assert command is not None
    assert command.words == (str(tmp_path / "bin/login"), "--now")
    assert command.environ == (("A", "b"),)


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"server": "http://192.0.2.1"}, "no https:// address"),
        ({"server": "192.0.2.1:6443"}, "no https:// address"),
        ({"server": "https://"}, "no https:// address"),
        ({"server": "https://host:99999"}, "no address"),
        ({"server": ["https://host"]}, "a string is expected"),
        ({}, "no https:// address"),
        ({"server": "https://host", "insecure-skip-tls-verify": True}, "insecure-skip-tls-verify: not supported"),
        ({"server": "https://host", "proxy-url": "socks5://x"}, "proxy-url: not supported"),
        ({"server": "https://host", "certificate-authority-data": "%"}, "no base64"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, cluster: object, words: str) -> None:
    file = written(tmp_path / "config", cluster=cluster)
    with pytest.raises(AccessError, match=words) as raised:
        from_kubeconfig([file])
    assert str(raised.value).startswith(f"{file}:")


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"username": "a", "password": "b"}, "give a token"),
        ({"auth-provider": {"name": "gcp"}}, "give a token"),
        ({"client-certificate": "a.crt"}, "one is missing"),
        ({"exec": {"args": []}}, "a string is expected"),
        ({"exec": {"command": "a", "env": [{"value": "b"}]}}, "a string is expected"),
        ({"exec": "login"}, "a mapping with 'command' is expected"),
        ({"token": 5}, "a string is expected"),
    ],
)
def test_a_user_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, user: object, words: str) -> None:
    file = written(tmp_path / "config", user=user)
    with pytest.raises(AccessError, match=words) as raised:
        from_kubeconfig([file])
    assert str(raised.value).startswith(f"{file}:")


def test_no_file_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=r"missing: there is no such file\. Give --kubeconfig"):
        from_kubeconfig([tmp_path / "missing"])
    with pytest.raises(AccessError, match=r"there is no kubeconfig\. Give --kubeconfig"):
        from_kubeconfig([])


def test_a_directory_is_no_kubeconfig(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="cannot be read: Is a directory"):
        from_kubeconfig([tmp_path])


def test_no_context_is_said_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=r"no current-context, and none was named \(known: here\)"):
        from_kubeconfig([written(tmp_path / "config", **{"current-context": ""})])


def test_kubectls_own_places_in_their_order(tmp_path: Path) -> None:
    home = tmp_path / ".kube" / "config"
    assert kubeconfig_files({"HOME": str(tmp_path)}) == []
    home.parent.mkdir()
    home.touch()
    assert kubeconfig_files({"HOME": str(tmp_path)}) == [home]
    assert kubeconfig_files({"HOME": str(tmp_path), "KUBECONFIG": "/a::/b"}) == [Path("/a"), Path("/b")]
    assert kubeconfig_files({"KUBECONFIG": "/a"}, "/given") == [Path("/given")]


@given(data=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_whatever_stands_in_it_is_an_access_or_an_error_of_access(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any-kubeconfig"
    file.write_bytes(data)
    with pytest.raises(AccessError):
        from_kubeconfig([file])


def test_a_kubeconfig_of_brackets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[" * 200_000)
    with pytest.raises(AccessError):
        from_kubeconfig([tmp_path / "config"])
