"""What an API server sends, and what its answer says; a JSON patch carried out."""

import base64
import copy
import json
from typing import Any

import yaml

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"


def review(
    found: Any,
    operation: str = "CREATE",
    *,
    old: Any = None,
    namespace: str = "demo",
    subresource: str = "",
    **more: Any,
) -> bytes:
    """An AdmissionReview about an object, with its own kind unless `kind` is given."""
    group, _, version = str(found.get("apiVersion", "v1") if isinstance(found, dict) else "v1").rpartition("/")
    kind = found.get("kind", "Pod") if isinstance(found, dict) else "Pod"
    request = {
        "uid": UID,
        "kind": {"group": group, "version": version, "kind": kind},
        "resource": {"group": group, "version": version, "resource": "things"},
        "operation": operation,
        "namespace": namespace,
        "object": found,
        "oldObject": old,
        "dryRun": False,
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        "userInfo": {"username": "admin"},
        **({"subResource": subresource} if subresource else {}),
        **more,
    }
    return json.dumps(
        {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}, default=str
    ).encode()


def answer(said: bytes) -> dict[str, Any]:
    """The response in an AdmissionReview, which must be one."""
    found = json.loads(said)
    assert (found["apiVersion"], found["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response: dict[str, Any] = found["response"]
    assert response["uid"] == UID
    return response


def reason(said: bytes) -> str:
    """Why it is refused; empty where it is allowed."""
    response = answer(said)
    return "" if response["allowed"] else str(response["status"]["message"])


def patched(said: bytes, found: Any) -> Any:
    """What is stored: the object as the answer's patch makes it."""
    response = answer(said)
    assert response["allowed"] is True
    if "patch" not in response:
        return found
    assert response["patchType"] == "JSONPatch"
    return carried_out(json.loads(base64.b64decode(response["patch"])), found)


def carried_out(steps: list[dict[str, Any]], found: Any) -> Any:
    """RFC 6902 as far as it is used: add and remove, to members and elements."""
    made = copy.deepcopy(found)
    for step in steps:
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        here = made
        for part in path:
            here = here[int(part)] if isinstance(here, list) else here[part]
        match step["op"], here:
            case "add", list():
                at = len(here) if last == "-" else int(last)
                assert 0 <= at <= len(here)
                here.insert(at, step["value"])
            case "add", dict():
                here[last] = step["value"]
            case "remove", list():
                del here[int(last)]
            case _:
                raise AssertionError(step)
    return made


def documents(text: str) -> list[dict[str, Any]]:
    """Each of a YAML file's."""
    return [each for each in yaml.safe_load_all(text) if each]
