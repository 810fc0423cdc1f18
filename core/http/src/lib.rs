//! HTTP/1 codec and message rules (RFC 9110, RFC 9112), without IO.
