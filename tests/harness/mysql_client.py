# Prints the first column of each answer: DRIVER LOGIN STATEMENT..., all on one connection.
import json
import sys

driver, login, *statements = sys.argv[1:]
given = json.loads(login)
# A host and a port, or a unix_socket.
where = {key: given[key] for key in ("host", "port", "unix_socket", "user", "password", "database") if key in given}
tls = {key: given[key] for key in ("ssl_ca", "ssl_cert", "ssl_key") if key in given}


def connector(pure):
    import mysql.connector

    # Before it gives up on TLS, it has to be told.
    options = tls or {"ssl_disabled": True}
    if given.get("compress"):
        options = {**options, "compress": True}
    return mysql.connector.connect(
        **where, **options, use_pure=pure, allow_local_infile=True, connection_timeout=20, autocommit=True)


def pymysql():
    import pymysql

    options = {**tls, "ssl_verify_cert": True, "ssl_verify_identity": True} if tls else {"ssl_disabled": True}
    return pymysql.connect(
        **where, **options, local_infile=True, connect_timeout=20, autocommit=True)


def run():
    connect = {"connector": lambda: connector(False), "connector-pure": lambda: connector(True), "pymysql": pymysql}
    connection = connect[driver]()
    try:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
            for row in cursor.fetchall() if cursor.description else ():
                print(row[0])
    finally:
        connection.close()


try:
    run()
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
