# Sends the mail on standard input: HOST PORT FROM TO [starttls|tls CA [CERTIFICATE KEY]].
import smtplib
import ssl
import sys

host, port, sender, recipient, *tls = sys.argv[1:]
try:
    context = ssl.create_default_context(cafile=tls[1]) if tls else None
    if tls[2:]:
        context.load_cert_chain(tls[2], tls[3])
    if tls[:1] == ["tls"]:
        server = smtplib.SMTP_SSL(host, int(port), timeout=20, context=context)
    else:
        server = smtplib.SMTP(host, int(port), timeout=20)
    with server:
        if tls[:1] == ["starttls"]:
            server.starttls(context=context)
        server.sendmail(sender, [recipient], sys.stdin.read())
except (OSError, smtplib.SMTPException) as error:
    sys.exit(f"{type(error).__name__}: {error}")
