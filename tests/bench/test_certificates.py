import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from bench import certificates


@pytest.mark.parametrize(("side", "name"), certificates.NAMES.items())
def test_both_sides_have_a_p256_certificate_of_one_ca(tmp_path: Path, side: str, name: str) -> None:
    certificates.write(tmp_path, datetime.now(UTC))
    leaf = x509.load_pem_x509_certificate((tmp_path / f"{side}.pem").read_bytes())
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes()))
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name]
    assert (tmp_path / f"{side}.key").stat().st_mode & 0o777 == 0o600
    ssl.create_default_context().load_cert_chain(tmp_path / f"{side}.both.pem")
