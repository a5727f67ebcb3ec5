# A client of an old protocol, as its library has it, does the least that shows a session: one line of what it was given.
# NAME HOST PORT [starttls|tls CA [CERTIFICATE KEY]]
import asyncio
import email
import ssl
import sys

name, host, port, *tls = sys.argv[1:]
port, how = int(port), tls[0] if tls else None
USER, PASSWORD, LIMIT = "u", "pw", 20


def context():
    # Servers are met by their address, as nuncio is; the names of certificates are not what is shown here.
    trusting = ssl.create_default_context(cafile=tls[1])
    trusting.check_hostname = False
    if tls[2:]:
        trusting.load_cert_chain(tls[2], tls[3])
    return trusting


def subject(mail):
    return email.message_from_bytes(mail)["Subject"]


def imaplib():
    import imaplib

    if how == "tls":
        session = imaplib.IMAP4_SSL(host, port, ssl_context=context(), timeout=LIMIT)
    else:
        session = imaplib.IMAP4(host, port, timeout=LIMIT)
    with session:
        if how == "starttls":
            session.starttls(context())
        session.login(USER, PASSWORD)
        session.select()
        return subject(session.fetch("1", "(RFC822)")[1][0][1])


def poplib():
    import poplib

    if how == "tls":
        session = poplib.POP3_SSL(host, port, timeout=LIMIT, context=context())
    else:
        session = poplib.POP3(host, port, timeout=LIMIT)
    if how == "starttls":
        session.stls(context())
    session.user(USER)
    session.pass_(PASSWORD)
    mail = subject(b"\r\n".join(session.retr(1)[1]))
    session.quit()
    return mail


def lmtplib():
    import smtplib

    with smtplib.LMTP(host, port) as session:
        if how == "starttls":
            session.starttls(context=context())
        session.sendmail("a@client.test", ["client.test"], "Subject: by lmtplib\n\nhello\n")
        return "delivered"


def nntplib():
    import nntplib

    article = b"From: a@client.test\nNewsgroups: local.test\nSubject: by nntplib\n\nhello\n"
    with nntplib.NNTP(host, port, timeout=LIMIT) as session:
        if how == "starttls":
            session.starttls(context())
        session.group("local.test")
        posted = session.post(article)
        return posted.split(" <")[0]


def python_ldap():
    import ldap

    session = ldap.initialize(f"{'ldaps' if how == 'tls' else 'ldap'}://{host}:{port}")
    session.set_option(ldap.OPT_NETWORK_TIMEOUT, LIMIT)
    if how:
        session.set_option(ldap.OPT_X_TLS_CACERTFILE, tls[1])
        session.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
        if tls[2:]:
            session.set_option(ldap.OPT_X_TLS_CERTFILE, tls[2])
            session.set_option(ldap.OPT_X_TLS_KEYFILE, tls[3])
        session.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
    if how == "starttls":
        session.start_tls_s()
    session.simple_bind_s("cn=admin,dc=upstream,dc=test", PASSWORD)
    [(_, entry)] = session.search_s("cn=box,dc=upstream,dc=test", ldap.SCOPE_BASE)
    return entry["description"][0].decode()


# libldap will not say EXTERNAL on a connection that is plaintext to it.
def ldap3():
    import ldap3

    server = ldap3.Server(host, port, connect_timeout=LIMIT, get_info=ldap3.NONE)
    session = ldap3.Connection(server, authentication=ldap3.SASL, sasl_mechanism=ldap3.EXTERNAL, sasl_credentials="",
                               raise_exceptions=True, receive_timeout=LIMIT)
    session.bind()
    return session.extend.standard.who_am_i()


def slixmpp():
    import slixmpp

    class Client(slixmpp.ClientXMPP):
        def __init__(self):
            plain = {"feature_mechanisms": {"unencrypted_plain": True, "unencrypted_scram": True}}
            super().__init__(f"{USER}@upstream.test", PASSWORD, plugin_config=plain)
            self.enable_direct_tls = how == "tls"
            self.enable_starttls = how == "starttls"
            self.enable_plaintext = how is None
            if how:
                self.ca_certs = tls[1]
                self.certfile, self.keyfile = tls[2:] or (None, None)
            self.told = asyncio.get_event_loop().create_future()
            for event in ["session_start", "stream_error", "connection_failed", "failed_all_auth", "ssl_invalid_chain",
                          "disconnected"]:
                self.add_event_handler(event, lambda data, event=event: self.tell(event, data))

        def tell(self, event, data):
            if self.told.done():
                return
            if event == "session_start":
                self.told.set_result(f"a session as {self.boundjid.bare}")
            elif event == "stream_error":
                self.told.set_exception(OSError(f"stream error {data['condition']}: {data['text']}"))
            else:
                self.told.set_exception(OSError(f"{event}: {data}".rstrip(": ")))

        async def session(self):
            self.connect(host, port)
            try:
                return await asyncio.wait_for(self.told, LIMIT)
            finally:
                self.cancel_connection_attempt()
                self.disconnect()

    async def session():
        return await Client().session()

    return asyncio.run(session())


def pika():
    import pika

    # It looks into the server's list of mechanisms, and not whether it is inside TLS.
    connection = pika.BlockingConnection(pika.ConnectionParameters(
        host, port, credentials=pika.credentials.ExternalCredentials() if tls[2:] or not how else None,
        ssl_options=pika.SSLOptions(context()) if how else None,
        socket_timeout=LIMIT, blocked_connection_timeout=LIMIT))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.basic_publish("", queue, b"hello")
    for _, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=LIMIT):
        connection.close()
        return f"consumed {body.decode()}" if body else "nothing came"


try:
    print({client.__name__: client for client in
           [imaplib, poplib, lmtplib, nntplib, python_ldap, ldap3, slixmpp, pika]}[name]())
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
