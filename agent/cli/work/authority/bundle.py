"""The trust bundle, as others may have it."""

import json
import sys

from agent.authority.api import as_bundle
from agent.authority.ledger import Book
from agent.authority.store import StoreError
from agent.cli.authority.flags import Where
from agent.cli.work.authority.opened import opened
from agent.identity import bundle_document


def bundle(where: Where, *, pem: bool) -> None:
    """Prints it as a SPIFFE bundle document, or the certificates alone."""
    with opened(where) as authority:
        published = authority.do(Book.publication)
        if published is None:
            raise StoreError("nothing has been published yet: start the authority once")
        if pem:
            sys.stdout.write(published.trust.anchors_pem.decode())
        else:
            document = json.loads(bundle_document.encode(as_bundle(published, authority.trust_domain)))
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
