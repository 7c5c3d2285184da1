"""TLS without I/O: the ClientHello parser, TLS over memory, contexts, the session cache."""
