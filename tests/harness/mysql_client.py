# Prints the answers, one row a line, columns separated by a tab: DRIVER LOGIN STATEMENT..., all on one connection.
import json
import sys

driver, login, *statements = sys.argv[1:]
given = json.loads(login)
where = {key: given[key] for key in ("host", "port", "unix_socket", "user", "password", "database") if key in given}
# Nothing said of it, {}: demanded, or files.
tls = given.get("tls")


def connector(pure):
    import mysql.connector

    options = tls or {}
    if "ssl_ca" in options:
        options["ssl_verify_cert"] = True
    connection = mysql.connector.connect(
        **where, **options, use_pure=pure, compress=given["compress"], allow_local_infile=True, autocommit=True,
        connection_timeout=20)
    return connection, lambda: connection.cursor(prepared=True)


def pymysql():
    import pymysql

    options = {"ssl": tls} if tls == {} else dict(tls or {})
    if "ssl_ca" in options:
        options.update(ssl_verify_cert=True, ssl_verify_identity=True)
    connection = pymysql.connect(**where, **options, local_infile=True, autocommit=True, connect_timeout=20)
    return connection, connection.cursor


def be_killed(connection):
    try:
        connection.cursor().execute("kill connection_id()")
    except Exception as error:
        print(type(error).__name__)
    connection.ping(reconnect=True)


def ask():
    connect = {"connector": lambda: connector(False), "connector-pure": lambda: connector(True), "pymysql": pymysql}
    connection, new_cursor = connect[driver]()
    for statement in statements:
        if statement == "change user":
            connection.cmd_change_user(given["user"], given["password"], given["database"])
            continue
        if statement == "be killed":
            be_killed(connection)
            continue
        local = statement.startswith("load data local")
        cursor = connection.cursor() if local else new_cursor()
        cursor.execute(statement)
        for row in cursor.fetchall() if cursor.description else ():
            print(*(bytes(cell).decode() if isinstance(cell, (bytes, bytearray)) else cell for cell in row), sep="\t")
        cursor.close()
    connection.close()


try:
    ask()
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
