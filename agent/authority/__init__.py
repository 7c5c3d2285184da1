"""The CA: issuer, attestation, ledger, and the HTTPS API in front of them."""
