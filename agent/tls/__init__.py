"""TLS without I/O: the ClientHello parser, TLS over memory BIOs, contexts, the session cache."""
