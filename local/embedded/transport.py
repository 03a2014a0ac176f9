"""Every request counts as encrypted on its way, as those of an AWS SDK to AWS are."""

from ministack import app


def counts_as_encrypted() -> None:
    """Set `aws:SecureTransport`, although the server listens on loopback without TLS.

    IAM User Guide, "AWS global condition context keys": true if the request was sent through TLS.
    SAM's bucket denies requests without it, which would keep out everybody but an administrator.
    """
    pin = app.pin_request_origin

    def pin_encrypted(source_ip: str, _: object) -> None:
        pin(source_ip, secure_transport=True)

    app.pin_request_origin = pin_encrypted
