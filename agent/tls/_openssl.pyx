# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
"""OpenSSL, as far as agent.tls needs it, without a copy or a call too many: what the ssl module cannot be told.

Why this is native (the figures are in docs/performance.md): CPython's ssl module copies a session through its DER form
each time it is taken and each time it is used, which parses the peer's certificate each time; it cannot share sessions
between processes, so that with two workers half of all connections would be full handshakes; and it takes three calls
and an exception for each message that comes in.

`Context` is one SSL_CTX, `Connection` one SSL over memory: bytes in, bytes out, no I/O. `Session` is what a client keeps
for resumption. Nothing here decides: verification beyond the chain, and what a failure means, is Python's. The
interpreter's lock is held throughout: a worker has one thread.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcmp, memcpy, memset

from agent.tls._store cimport DIGEST_SIZE, ID_SIZE, Record, SECRET_SIZE, SessionStore


cdef extern from "openssl/crypto.h":
    void OPENSSL_cleanse(void *, size_t)


cdef extern from "openssl/evp.h":
    ctypedef struct EVP_MD
    const EVP_MD *EVP_sha256()


cdef extern from "openssl/bio.h":
    ctypedef struct BIO
    ctypedef struct BIO_METHOD
    int BIO_TYPE_SOURCE_SINK
    int BIO_CTRL_FLUSH
    int BIO_get_new_index()
    BIO_METHOD *BIO_meth_new(int, const char *)
    int BIO_meth_set_write(BIO_METHOD *, int (*)(BIO *, const char *, int))
    int BIO_meth_set_read(BIO_METHOD *, int (*)(BIO *, char *, int))
    int BIO_meth_set_ctrl(BIO_METHOD *, long (*)(BIO *, int, long, void *))
    BIO *BIO_new(const BIO_METHOD *)
    BIO *BIO_new_mem_buf(const void *, int)
    int BIO_free(BIO *)
    int BIO_up_ref(BIO *)
    void BIO_set_data(BIO *, void *)
    void *BIO_get_data(BIO *)
    void BIO_set_init(BIO *, int)
    void BIO_clear_retry_flags(BIO *)
    void BIO_set_retry_read(BIO *)


cdef extern from "openssl/err.h":
    unsigned long ERR_get_error()
    void ERR_clear_error()
    const char *ERR_reason_error_string(unsigned long)


cdef extern from "openssl/x509_vfy.h":
    ctypedef struct X509
    ctypedef struct X509_STORE
    ctypedef struct X509_VERIFY_PARAM
    unsigned long X509_V_FLAG_X509_STRICT
    unsigned long X509_V_FLAG_TRUSTED_FIRST
    int X509_STORE_add_cert(X509_STORE *, X509 *)
    int X509_VERIFY_PARAM_set_flags(X509_VERIFY_PARAM *, unsigned long)
    const char *X509_verify_cert_error_string(long)
    void X509_free(X509 *)
    int X509_digest(const X509 *, const EVP_MD *, unsigned char *, unsigned int *)
    int i2d_X509(X509 *, unsigned char **)


cdef extern from "openssl/pem.h":
    ctypedef struct EVP_PKEY
    X509 *PEM_read_bio_X509(BIO *, X509 **, void *, void *)
    EVP_PKEY *PEM_read_bio_PrivateKey(BIO *, EVP_PKEY **, void *, void *)
    void EVP_PKEY_free(EVP_PKEY *)


cdef extern from "openssl/ssl.h":
    ctypedef struct SSL_METHOD
    ctypedef struct SSL_SESSION
    ctypedef struct SSL_CIPHER
    ctypedef struct stack_st_X509 "STACK_OF(X509)"
    int TLS1_3_VERSION
    int SSL_VERIFY_PEER
    int SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN
    int SSL_SENT_SHUTDOWN, SSL_RECEIVED_SHUTDOWN
    int SSL_SESS_CACHE_OFF, SSL_SESS_CACHE_SERVER, SSL_SESS_CACHE_NO_INTERNAL
    unsigned long SSL_OP_NO_TICKET
    long SSL_MODE_RELEASE_BUFFERS, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, SSL_MODE_AUTO_RETRY
    int SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_NOACK, SSL_TLSEXT_ERR_ALERT_FATAL, OPENSSL_NPN_NEGOTIATED
    const SSL_METHOD *TLS_server_method()
    const SSL_METHOD *TLS_client_method()
    SSL_CTX *SSL_CTX_new(const SSL_METHOD *)
    void SSL_CTX_free(SSL_CTX *)
    int SSL_CTX_set_min_proto_version(SSL_CTX *, int)
    int SSL_CTX_set_max_proto_version(SSL_CTX *, int)
    int SSL_CTX_set_ciphersuites(SSL_CTX *, const char *)
    long SSL_CTX_set_mode(SSL_CTX *, long)
    long SSL_CTX_clear_mode(SSL_CTX *, long)
    int SSL_CTX_use_certificate(SSL_CTX *, X509 *)
    long SSL_CTX_add0_chain_cert(SSL_CTX *, X509 *)
    int SSL_CTX_use_PrivateKey(SSL_CTX *, EVP_PKEY *)
    int SSL_CTX_check_private_key(const SSL_CTX *)
    X509_STORE *SSL_CTX_get_cert_store(const SSL_CTX *)
    X509_VERIFY_PARAM *SSL_CTX_get0_param(SSL_CTX *)
    void SSL_CTX_set_verify(SSL_CTX *, int, void *)
    int SSL_CTX_set_session_id_context(SSL_CTX *, const unsigned char *, unsigned int)
    long SSL_CTX_set_session_cache_mode(SSL_CTX *, long)
    unsigned long SSL_CTX_set_options(SSL_CTX *, unsigned long)
    int SSL_CTX_set1_groups_list(SSL_CTX *, const char *)
    long SSL_CTX_set_max_cert_list(SSL_CTX *, long)
    void SSL_CTX_set_verify_depth(SSL_CTX *, int)
    long SSL_CTX_set_timeout(SSL_CTX *, long)
    void SSL_CTX_sess_set_new_cb(SSL_CTX *, int (*)(SSL *, SSL_SESSION *))
    void SSL_CTX_sess_set_get_cb(SSL_CTX *, SSL_SESSION *(*)(SSL *, const unsigned char *, int, int *))
    int SSL_CTX_set_num_tickets(SSL_CTX *, size_t)
    int SSL_set_num_tickets(SSL *, size_t)
    long SSL_CTX_set_tlsext_servername_callback(SSL_CTX *, int (*)(SSL *, int *, void *))
    int SSL_CTX_set_alpn_protos(SSL_CTX *, const unsigned char *, unsigned int)
    void SSL_CTX_set_alpn_select_cb(
        SSL_CTX *,
        int (*)(SSL *, const unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *),
        void *)
    int SSL_select_next_proto(
        unsigned char **, unsigned char *, const unsigned char *, unsigned int, const unsigned char *, unsigned int)
    SSL *SSL_new(SSL_CTX *)
    void SSL_free(SSL *)
    void SSL_set_bio(SSL *, BIO *, BIO *)
    void SSL_set_connect_state(SSL *)
    void SSL_set_accept_state(SSL *)
    long SSL_set_tlsext_host_name(SSL *, const char *)
    int SSL_set_session(SSL *, SSL_SESSION *)
    SSL_SESSION *SSL_get1_session(SSL *)
    int SSL_SESSION_has_ticket(const SSL_SESSION *)
    SSL_SESSION *SSL_SESSION_new()
    X509 *SSL_SESSION_get0_peer(SSL_SESSION *)
    const unsigned char *SSL_SESSION_get_id(const SSL_SESSION *, unsigned int *)
    int SSL_SESSION_set1_id(SSL_SESSION *, const unsigned char *, unsigned int)
    int SSL_SESSION_set1_id_context(SSL_SESSION *, const unsigned char *, unsigned int)
    size_t SSL_SESSION_get_master_key(const SSL_SESSION *, unsigned char *, size_t)
    int SSL_SESSION_set1_master_key(SSL_SESSION *, const unsigned char *, size_t)
    const SSL_CIPHER *SSL_SESSION_get0_cipher(const SSL_SESSION *)
    int SSL_SESSION_set_cipher(SSL_SESSION *, const SSL_CIPHER *)
    int SSL_SESSION_set_protocol_version(SSL_SESSION *, int)
    long SSL_SESSION_get_time(const SSL_SESSION *)
    long SSL_SESSION_set_time(SSL_SESSION *, long)
    long SSL_SESSION_set_timeout(SSL_SESSION *, long)
    const SSL_CIPHER *SSL_CIPHER_find(SSL *, const unsigned char *)
    unsigned short SSL_CIPHER_get_protocol_id(const SSL_CIPHER *)
    void SSL_SESSION_free(SSL_SESSION *)
    int SSL_session_reused(const SSL *)
    int SSL_do_handshake(SSL *)
    int SSL_read(SSL *, void *, int)
    int SSL_write(SSL *, const void *, int)
    int SSL_shutdown(SSL *)
    void SSL_set_shutdown(SSL *, int)
    int SSL_get_error(const SSL *, int)
    long SSL_get_verify_result(const SSL *)
    X509 *SSL_get0_peer_certificate(const SSL *)
    stack_st_X509 *SSL_get0_verified_chain(const SSL *)
    int sk_X509_num(const stack_st_X509 *)
    X509 *sk_X509_value(const stack_st_X509 *, int)
    void SSL_get0_alpn_selected(const SSL *, const unsigned char **, unsigned int *)
    const SSL_CIPHER *SSL_get_current_cipher(const SSL *)
    const char *SSL_CIPHER_get_name(const SSL_CIPHER *)
    const char *OpenSSL_version(int)


cdef enum:
    RECORD = 16384  # RFC 8446, section 5.1: plaintext of one record at most
    OVERHEAD = 22  # what every TLS 1.3 suite adds to a record: header, content type and tag
    SMALL = 4096  # what comes in one read and is copied sooner than its memory is cut to size
    SESSION_SECONDS = 7200  # how long a session may be resumed; both ends' certificates are looked at each time
    MAX_CHAIN = 16384  # bytes of certificates that a peer may show: a leaf and what is above it has some kilobytes
    MAX_ABOVE = 6  # intermediates between a leaf and its anchor: mostly there is one
    HEADER = 5  # RFC 8446, section 5.1: content type, version, and the length of what follows
    # Bare is a message without application data, and each answer that OpenSSL gives to one: a KeyUpdate that asks for
    # the other direction's new keys counts twice.
    MAX_BARE = 128  # how many a peer may send, when it has long sent nothing else
    BARE_PER_RECORD = 4  # and how many more for each record of application data, whichever way that goes
    WORK_AT_ONCE = 512  # records of application data that are opened before other connections get their turn
    BARE_WORK = 8  # what a bare one counts as among these: new keys both ways take 25 µs, a short record half a one

cdef const char *_cipher_suites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
"""RFC 8446, appendix B.4. The 128-bit suite first: its strength is ample for keys that live for a connection."""

cdef const char *_groups = "X25519:P-256"
cdef const char *_groups_with_hybrid = "*X25519MLKEM768:*X25519:P-256"
"""RFC 8446, section 9.1, and both together with ML-KEM where OpenSSL has it (3.5; the stars are for key shares that a
client sends at once). Whoever names a group has the other end compute in it before anybody is known: OpenSSL's default
has ffdhe8192, 130 ms for a ClientHello of 1.2 kB that may be sent again and again."""


TOO_MANY_BARE = "too many messages without application data"
"""The reason that is OpenSSL's in form, and ours."""


class OpenSslError(Exception):
    """What OpenSSL had against it, in its own words."""


def version() -> str:
    """The library that is linked, in its own words."""
    return OpenSSL_version(0).decode()


cdef str _last_reason():
    """The oldest reason in OpenSSL's error queue, which is empty afterwards."""
    cdef unsigned long code = ERR_get_error()
    cdef const char *text = ERR_reason_error_string(code) if code else NULL
    ERR_clear_error()
    return "unknown" if text == NULL else text.decode()


cdef class _Pem:
    """A memory BIO over PEM text."""

    cdef BIO *bio
    cdef bytes text

    def __cinit__(self, bytes text):
        self.text = text  # the BIO reads from it
        self.bio = BIO_new_mem_buf(PyBytes_AS_STRING(text), <int>len(text))
        if self.bio == NULL:
            raise MemoryError

    def __dealloc__(self):
        BIO_free(self.bio)

    cdef X509 *certificate(self) except? NULL:
        """The next certificate; NULL after the last."""
        cdef X509 *found = PEM_read_bio_X509(self.bio, NULL, NULL, NULL)
        ERR_clear_error()
        return found


cdef class Context:
    """One end of many connections under one certificate: TLS 1.3 only, the peer's chain verified against `anchors`.

    A server asks for a certificate and takes a client without one; a client demands the server's. `alpn` is what a
    client offers, or what a server serves in its order of preference; a server refuses a list with none of these.

    A server keeps its sessions in `store`, under the context's `name`, 32 bytes: whatever is different between two
    contexts that may not resume each other's sessions must make their names different. Without a store there are none.
    It resumes what clients have begun of whom it knows what `judge` said; `judged_at_most` are known: who is forgotten
    shows its certificates again.
    """

    def __init__(
        self,
        *,
        bint server,
        bytes chain_pem,
        bytes key_pem,
        bytes anchors_pem,
        alpn,
        SessionStore store=None,
        bytes name=None,
        int judged_at_most=4096,
    ):
        if self.ctx != NULL:
            raise RuntimeError("a context is made once")
        self.server = server
        self.ctx = SSL_CTX_new(TLS_server_method() if server else TLS_client_method())
        if self.ctx == NULL:
            raise OpenSslError(_last_reason())
        SSL_CTX_set_min_proto_version(self.ctx, TLS1_3_VERSION)
        SSL_CTX_set_max_proto_version(self.ctx, TLS1_3_VERSION)
        # With OpenSSL's cache for clients on, a session that was used once could not be used again.
        SSL_CTX_set_session_cache_mode(self.ctx, SSL_SESS_CACHE_OFF)
        SSL_CTX_set_mode(self.ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
        SSL_CTX_clear_mode(self.ctx, SSL_MODE_AUTO_RETRY)  # so that each message without application data is counted
        # A stranger's certificates are parsed before anything is verified: OpenSSL's own bounds, 100 kB and a depth of
        # 100, are a tenth of a second of work.
        SSL_CTX_set_max_cert_list(self.ctx, MAX_CHAIN)
        SSL_CTX_set_verify_depth(self.ctx, MAX_ABOVE)
        self._check(SSL_CTX_set_ciphersuites(self.ctx, _cipher_suites))
        if SSL_CTX_set1_groups_list(self.ctx, _groups_with_hybrid) <= 0:
            ERR_clear_error()  # a version that does not know it
            self._check(SSL_CTX_set1_groups_list(self.ctx, _groups))
        self._load(chain_pem, key_pem)
        self._trust(anchors_pem)
        self.protocols = b"".join([bytes([len(name)]) + name for name in alpn])
        if server:
            SSL_CTX_set_verify(self.ctx, SSL_VERIFY_PEER, NULL)
            SSL_CTX_set_alpn_select_cb(self.ctx, _select_protocol, <void *>self)
            self.judged_at_most = judged_at_most
            self._remember(store, name)
        else:
            SSL_CTX_set_verify(self.ctx, SSL_VERIFY_PEER, NULL)
            if self.protocols and SSL_CTX_set_alpn_protos(
                self.ctx, <const unsigned char *>PyBytes_AS_STRING(self.protocols), <unsigned int>len(self.protocols)
            ):
                raise OpenSslError(_last_reason())

    def __dealloc__(self):
        SSL_CTX_free(self.ctx)

    cdef int _check(self, long good) except -1:
        if good <= 0:
            raise OpenSslError(_last_reason())
        return 0

    cdef int _load(self, bytes chain_pem, bytes key_pem) except -1:
        cdef _Pem chain = _Pem(chain_pem), text = _Pem(key_pem)
        cdef X509 *certificate = chain.certificate()
        cdef int good
        if certificate == NULL:
            raise OpenSslError("the chain has no certificate")
        good = SSL_CTX_use_certificate(self.ctx, certificate)
        X509_free(certificate)
        self._check(good)
        while True:
            certificate = chain.certificate()
            if certificate == NULL:
                break
            if SSL_CTX_add0_chain_cert(self.ctx, certificate) <= 0:  # it is the context's where this succeeds
                X509_free(certificate)
                raise OpenSslError(_last_reason())
        cdef EVP_PKEY *key = PEM_read_bio_PrivateKey(text.bio, NULL, NULL, NULL)
        if key == NULL:
            raise OpenSslError(_last_reason())
        good = SSL_CTX_use_PrivateKey(self.ctx, key)
        EVP_PKEY_free(key)
        self._check(good)
        return self._check(SSL_CTX_check_private_key(self.ctx))

    cdef int _remember(self, SessionStore store, bytes name) except -1:
        SSL_CTX_set_options(self.ctx, SSL_OP_NO_TICKET)
        if store is None:
            SSL_CTX_set_num_tickets(self.ctx, 0)
            return 0
        if name is None or len(name) != DIGEST_SIZE:
            raise ValueError(f"a context's name is {DIGEST_SIZE} bytes")
        self.store, self.name, self.judged = store, name, {}
        SSL_CTX_set_num_tickets(self.ctx, 1)
        SSL_CTX_set_timeout(self.ctx, SESSION_SECONDS)
        SSL_CTX_set_session_cache_mode(self.ctx, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL)
        SSL_CTX_sess_set_new_cb(self.ctx, _keep_session)
        SSL_CTX_sess_set_get_cb(self.ctx, _find_session)
        SSL_CTX_set_tlsext_servername_callback(self.ctx, _no_second_ticket)
        return self._check(SSL_CTX_set_session_id_context(self.ctx, _octets(name), DIGEST_SIZE))

    def forget(self):
        """Whoever is new here shows a certificate again: for a context that only its living connections use any more."""
        if self.judged is not None:
            self.judged.clear()

    cdef int _trust(self, bytes anchors_pem) except -1:
        cdef _Pem anchors = _Pem(anchors_pem)
        cdef X509_STORE *store = SSL_CTX_get_cert_store(self.ctx)
        cdef X509 *certificate
        cdef int good
        while True:
            certificate = anchors.certificate()
            if certificate == NULL:
                break
            good = X509_STORE_add_cert(store, certificate)
            X509_free(certificate)
            self._check(good)
        X509_VERIFY_PARAM_set_flags(
            SSL_CTX_get0_param(self.ctx), X509_V_FLAG_X509_STRICT | X509_V_FLAG_TRUSTED_FIRST
        )
        return 0


cdef class Session:
    """A TLS session that a server gave a ticket for. It may be used for many connections."""

    cdef SSL_SESSION *session
    cdef bytes peer
    cdef tuple judgement

    def __dealloc__(self):
        SSL_SESSION_free(self.session)


cdef class Connection:
    """One end of one connection. What must go to the peer is in `outgoing`, or comes from `seal`.

    Python reads `handshake_complete`; `peer_closed`: the peer's close_notify has come, its direction ended cleanly;
    `closed`: our own has gone out; `judgement`: what was found of the peer when its certificates were judged, for the
    session that is resumed too; `out_used`: bytes that `outgoing` would return; `pending`: how many of the bytes that
    were given last are not looked at yet, because others must have their turn. They come first in what is given next.

    A peer that sends message upon message and no application data (KeyUpdates, RFC 8446, section 4.6.3, are dear: new
    keys, and an answer) fails with TOO_MANY_BARE.
    """

    def __init__(self, Context context, str server_name=None, Session session=None):
        if self.ssl != NULL:
            raise RuntimeError("a connection is made once")
        cdef bytes name
        self.context = context
        self.bare_left = MAX_BARE
        self.ssl = SSL_new(context.ctx)
        if self.ssl == NULL:
            raise OpenSslError(_last_reason())
        BIO_up_ref(_bio)
        SSL_set_bio(self.ssl, _bio, _bio)
        if context.server:
            SSL_set_accept_state(self.ssl)
            return
        SSL_set_connect_state(self.ssl)
        if server_name:
            name = server_name.encode("ascii")
            if SSL_set_tlsext_host_name(self.ssl, PyBytes_AS_STRING(name)) <= 0:
                raise OpenSslError(_last_reason())
        if session is not None:
            self.peer = session.peer
            self.judgement = session.judgement
            if SSL_set_session(self.ssl, session.session) <= 0:
                ERR_clear_error()  # a session that cannot be used costs a full handshake, and nothing else

    def __dealloc__(self):
        if self.ssl != NULL:
            # Without this, freeing a connection that was cut marks its session, which others share, as unusable.
            SSL_set_shutdown(self.ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN)
            SSL_free(self.ssl)

    cpdef int start(self) except -1:
        """Begins the handshake. Raises OpenSslError."""
        self._shake()
        return 0

    cpdef bytes receive(self, data):
        """Takes ciphertext; returns the application data that it completes. Raises OpenSslError. See `pending`."""
        cdef Py_buffer view
        cdef bytes plain
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        self.incoming = <const char *>view.buf
        self.beyond = view.len
        try:
            if not self.handshake_complete:
                # OpenSSL reads record by record: what it leaves, it leaves at the beginning of one.
                self.incoming_left, self.beyond = self.beyond, 0
                self._shake()
                self.incoming_left, self.beyond = 0, self.incoming_left
                if not self.handshake_complete:
                    return b""
            if self.peer_closed:
                return b""
            # A record's plaintext is shorter than the record: what comes is at most what came in, and the one record
            # whose beginning came before.
            if self.beyond <= SMALL:
                return self._read_small()
            plain = PyBytes_FromStringAndSize(NULL, self.beyond + RECORD)
            return plain[: self._decrypt(PyBytes_AS_STRING(plain), len(plain))]
        finally:
            self._put_down()
            PyBuffer_Release(&view)

    cdef Py_ssize_t open_into(self, const char *data, Py_ssize_t size, char *plain, Py_ssize_t room) except -1:
        """`receive` after the handshake, without an object: writes to `plain`, which has room for `size` and a record.

        Returns the number of bytes. Raises what `failure` returns.
        """
        if self.peer_closed:
            return 0
        self.incoming = data
        self.beyond = size
        try:
            return self._decrypt(plain, room)
        finally:
            self._put_down()

    cdef void _put_down(self) noexcept:
        """Lets go of what was given."""
        self.pending = 0 if self.peer_closed else self.beyond
        self.incoming = NULL
        self.incoming_left = self.beyond = 0

    cdef void _begin(self) noexcept:
        """Before each call of OpenSSL that may read or write: the one BIO is this connection's now."""
        BIO_set_data(_bio, <void *>self)
        ERR_clear_error()

    cdef int _shake(self) except -1:
        self._begin()
        cdef int done = SSL_do_handshake(self.ssl)
        if done == 1:
            self.handshake_complete = True
            return 0
        if SSL_get_error(self.ssl, done) == SSL_ERROR_WANT_READ:
            return 0
        raise self._failure()

    cdef bint _next_record(self) noexcept:
        """Lets OpenSSL read on to the end of one record, and no further. Returns whether that end is there."""
        cdef Py_ssize_t size = 0
        cdef unsigned char octet
        while size < self.beyond and self.header_seen < HEADER:
            octet = <unsigned char>self.incoming[size]
            if self.header_seen == HEADER - 2:
                self.body_left = octet << 8
            elif self.header_seen == HEADER - 1:
                self.body_left |= octet
            self.header_seen += 1
            size += 1
        if self.header_seen == HEADER:
            if self.body_left <= self.beyond - size:
                size += self.body_left
                self.header_seen = 0
            else:
                self.body_left -= <int>(self.beyond - size)
                size = self.beyond
        self.beyond -= size
        self.incoming_left = size
        return self.header_seen == 0

    cdef Py_ssize_t _decrypt(self, char *plain, Py_ssize_t size) except -1:
        """Opens what there is, as far as WORK_AT_ONCE goes: at most `size` bytes of application data.

        One call of SSL_read opens one record at most, or looks at one message in it.
        """
        cdef Py_ssize_t used = 0
        cdef int got, error, work = WORK_AT_ONCE
        cdef bint whole = True
        self._begin()
        while used < size:
            if self.incoming_left == 0:
                if work <= 0:
                    break
                if self.beyond == 0:
                    break  # a message behind another one in its record is looked at when the next record comes
                whole = self._next_record()
            got = SSL_read(self.ssl, plain + used, <int>(size - used))
            if got > 0:
                used += got
                work -= 1
                self.bare_left = min(MAX_BARE, self.bare_left + BARE_PER_RECORD)
                if self.beyond == 0:
                    break  # asking once more would only hear that there is nothing
                continue
            error = SSL_get_error(self.ssl, got)
            if error == SSL_ERROR_ZERO_RETURN:
                self.peer_closed = True
                break
            if error != SSL_ERROR_WANT_READ:
                raise self._failure()
            if self.incoming_left == 0 and not whole:
                break
            work -= BARE_WORK
            self.bare_left -= 1
            if self.bare_left < 0:
                raise self.failure(TOO_MANY_BARE, 0, "")
        return used

    cdef bytes _read_small(self):
        cdef char plain[SMALL + RECORD]
        cdef Py_ssize_t used = self._decrypt(plain, SMALL + RECORD)
        return PyBytes_FromStringAndSize(plain, used) if used else b""

    cpdef int send(self, data) except -1:
        """Encrypts application data; it waits in `outgoing`. Raises OpenSslError."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if self.out_used == 0 and view.len:
                self._reserve(view.len + (view.len // RECORD + 1) * OVERHEAD)
            return self._encrypt(view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef int _encrypt(self, const void *data, Py_ssize_t size) except -1:
        if size:
            self._begin()
            if SSL_write(self.ssl, data, <int>size) <= 0:
                raise self._failure()
            self.bare_left = min(MAX_BARE, self.bare_left + BARE_PER_RECORD)
        return 0

    cpdef bytes seal(self, data):
        """Encrypts application data; everything for the peer. Raises OpenSslError."""
        self.send(data)
        return self.outgoing()

    cdef Py_ssize_t seal_into(self, const char *data, Py_ssize_t size, char *sealed, Py_ssize_t room) except -1:
        """`seal` without an object: writes to `sealed`; returns the number of bytes. Raises what `failure` returns.

        What waited comes first. What finds no room waits in `outgoing`.
        """
        global _sink, _sink_left
        cdef Py_ssize_t waited = self.out_used
        if waited <= room:
            if waited:
                memcpy(sealed, PyBytes_AS_STRING(self.out), waited)
                self.out = None
                self.out_used = self.out_size = 0
            _sink = sealed + waited
            _sink_left = room - waited
        try:
            self._encrypt(data, size)
            return 0 if _sink == NULL else _sink - sealed
        finally:
            _sink = NULL

    cdef int _reserve(self, Py_ssize_t size) except -1:
        """Makes room in the bytes that `outgoing` will return. An idle connection keeps none."""
        self.out = PyBytes_FromStringAndSize(NULL, size)
        self.out_size = size
        return 0

    cpdef bytes outgoing(self):
        """What must go to the peer; empty where there is nothing."""
        cdef bytes result
        if self.out_used == 0:
            return b""
        result = self.out if self.out_used == self.out_size else self.out[: self.out_used]
        self.out = None
        self.out_used = self.out_size = 0
        return result

    cpdef int close(self) except -1:
        """Sends close_notify, once. Receiving goes on. Raises OpenSslError."""
        if self.closed:
            return 0
        self.closed = True
        self._begin()
        if SSL_shutdown(self.ssl) < 0:
            raise self._failure()
        return 0

    cdef object _failure(self):
        cdef long code = SSL_get_verify_result(self.ssl)
        return self.failure(_last_reason(), code, X509_verify_cert_error_string(code).decode())

    def failure(self, reason, verify_code, verify_message):
        """The exception that is raised. `reason` is OpenSSL's text, the others are X509_verify_cert(3)'s result."""
        return OpenSslError(reason)

    @property
    def session(self):
        """The session of a client; None until its ticket has come, which follows the handshake."""
        cdef SSL_SESSION *session = SSL_get1_session(self.ssl)
        cdef Session kept
        if session == NULL or not SSL_SESSION_has_ticket(session):
            SSL_SESSION_free(session)
            return None
        kept = Session()
        kept.session = session
        kept.peer = self.peer_certificate
        kept.judgement = self.judgement
        return kept

    def judge(self, tuple judgement):
        """Says what was found of a peer whose certificates were verified in this connection's handshake, and are good.

        It goes with the session: OpenSSL verifies nothing when that is resumed. So a peer who was refused, or of whom
        it is forgotten what was found, shows its certificates again, in a full handshake.
        """
        cdef unsigned char digest[DIGEST_SIZE]
        cdef unsigned int size = 0
        cdef X509 *certificate = SSL_get0_peer_certificate(self.ssl)
        cdef dict judged = self.context.judged
        cdef bytes key
        if SSL_session_reused(self.ssl):
            raise ValueError("nothing was verified in this connection's handshake")
        self.judgement = judgement
        if judged is None or certificate == NULL:
            return
        if X509_digest(certificate, EVP_sha256(), digest, &size) != 1:
            raise OpenSslError(_last_reason())
        key = (<char *>digest)[:DIGEST_SIZE]
        if key not in judged and len(judged) >= self.context.judged_at_most:
            del judged[next(iter(judged))]
        judged[key] = (_der(certificate), judgement)

    @property
    def resumed(self):
        """Whether a session was resumed. OpenSSL did not verify the peer again then."""
        return bool(SSL_session_reused(self.ssl))

    @property
    def peer_certificate(self):
        """The peer's leaf certificate, DER, on resumed sessions too; None where it showed none."""
        if SSL_session_reused(self.ssl):  # the session's: one value for all connections that have it
            return self.peer
        cdef X509 *certificate = SSL_get0_peer_certificate(self.ssl)
        return None if certificate == NULL else _der(certificate)

    @property
    def verified_chain(self):
        """The chain that was verified in a full handshake, leaf first, anchor last, DER; empty on a resumed session."""
        cdef stack_st_X509 *chain = SSL_get0_verified_chain(self.ssl)
        if chain == NULL:
            return []
        return [_der(sk_X509_value(chain, at)) for at in range(sk_X509_num(chain))]

    @property
    def alpn(self):
        """The application protocol that was agreed on."""
        cdef const unsigned char *name = NULL
        cdef unsigned int length = 0
        SSL_get0_alpn_selected(self.ssl, &name, &length)
        return None if length == 0 else (<const char *>name)[:length].decode("ascii", "backslashreplace")

    @property
    def cipher(self):
        """The cipher suite's name."""
        cdef const SSL_CIPHER *cipher = SSL_get_current_cipher(self.ssl)
        return None if cipher == NULL else SSL_CIPHER_get_name(cipher).decode()


cdef bytes _der(X509 *certificate):
    cdef int length = i2d_X509(certificate, NULL)
    cdef bytes result
    cdef unsigned char *place
    if length <= 0:
        raise OpenSslError(_last_reason())
    result = PyBytes_FromStringAndSize(NULL, length)
    place = <unsigned char *>PyBytes_AS_STRING(result)
    i2d_X509(certificate, &place)
    return result


cdef inline const unsigned char *_octets(bytes data):
    return <const unsigned char *>PyBytes_AS_STRING(data)


cdef int _keep_session(SSL *ssl, SSL_SESSION *session) noexcept:
    """A full handshake is done, and its session's number is about to go to the client. 0: OpenSSL forgets it."""
    cdef Context context = (<Connection>BIO_get_data(_bio)).context
    cdef X509 *certificate = SSL_SESSION_get0_peer(session)
    cdef const SSL_CIPHER *cipher = SSL_SESSION_get0_cipher(session)
    cdef Record record
    cdef unsigned int size = 0
    cdef const unsigned char *id = SSL_SESSION_get_id(session, &size)
    if size != ID_SIZE or cipher == NULL or SSL_session_reused(ssl):
        return 0
    memset(&record, 0, sizeof(Record))
    if certificate != NULL:
        if X509_digest(certificate, EVP_sha256(), record.peer, &size) != 1:
            return 0
    memcpy(record.id, id, ID_SIZE)
    memcpy(record.context, _octets(context.name), DIGEST_SIZE)
    record.made = SSL_SESSION_get_time(session)
    record.cipher = SSL_CIPHER_get_protocol_id(cipher)
    record.secret_size = <unsigned short>SSL_SESSION_get_master_key(session, record.secret, SECRET_SIZE)
    context.store.keep(&record)
    OPENSSL_cleanse(&record, sizeof(Record))
    return 0


cdef SSL_SESSION *_find_session(SSL *ssl, const unsigned char *id, int size, int *copy) noexcept:
    """A client comes with a session's number; NULL, and the handshake is a full one, where it cannot be resumed."""
    cdef Connection connection = <Connection>BIO_get_data(_bio)
    cdef Record record
    cdef SSL_SESSION *session = NULL
    copy[0] = 0
    connection.peer = None
    connection.judgement = None
    if size == ID_SIZE and connection.context.store.find(id, _octets(connection.context.name), &record):
        if _knows_peer(connection, &record):
            session = _session_of(ssl, &record)
        OPENSSL_cleanse(&record, sizeof(Record))
    return session


cdef bint _knows_peer(Connection connection, const Record *record):
    """Whether this worker has judged the certificate that the client showed, if it showed one, and knows what it found."""
    if memcmp(record.peer, _nobody, DIGEST_SIZE) == 0:
        return True
    known = connection.context.judged.get((<const char *>record.peer)[:DIGEST_SIZE])
    if known is None:
        return False
    connection.peer, connection.judgement = known
    return True


cdef SSL_SESSION *_session_of(SSL *ssl, const Record *record) noexcept:
    cdef unsigned char *suite = [record.cipher >> 8, record.cipher & 0xFF]
    cdef const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite)
    cdef SSL_SESSION *session = SSL_SESSION_new()
    if cipher != NULL and session != NULL and (
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION)
        and SSL_SESSION_set_cipher(session, cipher)
        and SSL_SESSION_set1_id(session, record.id, ID_SIZE)
        and SSL_SESSION_set1_id_context(session, record.context, DIGEST_SIZE)
        and SSL_SESSION_set1_master_key(session, record.secret, record.secret_size)
        and SSL_SESSION_set_time(session, record.made)
        and SSL_SESSION_set_timeout(session, SESSION_SECONDS)
    ):
        return session
    SSL_SESSION_free(session)
    return NULL


cdef int _no_second_ticket(SSL *ssl, int *alert, void *argument) noexcept:
    """Called for each ClientHello, with a server's name in it or without, when it is known whether a session is resumed.

    Such a client needs no new ticket, and must not be given one: what it would be kept under has seen no certificate.
    """
    if SSL_session_reused(ssl):
        SSL_set_num_tickets(ssl, 0)
    return SSL_TLSEXT_ERR_NOACK


cdef unsigned char _nobody[DIGEST_SIZE]
memset(_nobody, 0, DIGEST_SIZE)


cdef int _select_protocol(
    SSL *ssl,
    const unsigned char **chosen,
    unsigned char *chosen_length,
    const unsigned char *offered,
    unsigned int offered_length,
    void *argument,
) noexcept:
    """RFC 7301, section 3.2."""
    cdef Context context = <Context>argument
    if SSL_select_next_proto(
        <unsigned char **>chosen,
        chosen_length,
        <const unsigned char *>PyBytes_AS_STRING(context.protocols),
        <unsigned int>len(context.protocols),
        offered,
        offered_length,
    ) != OPENSSL_NPN_NEGOTIATED:
        return SSL_TLSEXT_ERR_ALERT_FATAL
    return SSL_TLSEXT_ERR_OK


# Where `seal_into` wants what is written; else NULL, and it waits in `outgoing`.
cdef char *_sink = NULL
cdef Py_ssize_t _sink_left = 0


cdef int _bio_write(BIO *bio, const char *data, int length) noexcept:
    """Adds to what must go to the peer."""
    global _sink, _sink_left
    if _sink != NULL:
        BIO_clear_retry_flags(bio)
        if length <= _sink_left:
            memcpy(_sink, data, length)
            _sink += length
            _sink_left -= length
            return length
        _sink_left = 0  # what follows waits behind this
    cdef Connection connection = <Connection>BIO_get_data(bio)
    cdef Py_ssize_t needed = connection.out_used + length
    cdef bytes former
    BIO_clear_retry_flags(bio)
    if needed > connection.out_size:
        former = connection.out
        try:
            connection._reserve(max(needed, connection.out_size * 2))
        except MemoryError:
            return -1
        if connection.out_used:
            memcpy(PyBytes_AS_STRING(connection.out), PyBytes_AS_STRING(former), connection.out_used)
    memcpy(PyBytes_AS_STRING(connection.out) + connection.out_used, data, length)
    connection.out_used = needed
    return length


cdef int _bio_read(BIO *bio, char *data, int length) noexcept:
    """Takes from what `receive` was given."""
    cdef Connection connection = <Connection>BIO_get_data(bio)
    cdef int count = <int>min(length, connection.incoming_left)
    BIO_clear_retry_flags(bio)
    if count <= 0:
        BIO_set_retry_read(bio)
        return -1
    memcpy(data, connection.incoming, count)
    connection.incoming += count
    connection.incoming_left -= count
    return count


cdef long _bio_ctrl(BIO *bio, int command, long number, void *pointer) noexcept:
    return 1 if command == BIO_CTRL_FLUSH else 0


cdef BIO_METHOD *_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, b"quietwire memory")
if _method == NULL:
    raise MemoryError
BIO_meth_set_write(_method, _bio_write)
BIO_meth_set_read(_method, _bio_read)
BIO_meth_set_ctrl(_method, _bio_ctrl)
# One for all connections: a call of OpenSSL's is one connection's, from its beginning to its end, and a BIO for each
# would cost 200 bytes and a lock. What it says of a retry is asked for before the next call.
cdef BIO *_bio = BIO_new(_method)
if _bio == NULL:
    raise MemoryError
BIO_set_init(_bio, 1)
