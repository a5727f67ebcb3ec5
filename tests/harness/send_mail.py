# Sends the mail on standard input: HOST PORT FROM TO [CA CERTIFICATE KEY, for STARTTLS].
import smtplib
import ssl
import sys

host, port, sender, recipient, *files = sys.argv[1:]
try:
    with smtplib.SMTP(host, int(port), timeout=20) as server:
        if files:
            context = ssl.create_default_context(cafile=files[0])
            context.load_cert_chain(files[1], files[2])
            server.starttls(context=context)
        server.sendmail(sender, [recipient], sys.stdin.read())
except (OSError, smtplib.SMTPException) as error:
    sys.exit(f"{type(error).__name__}: {error}")
