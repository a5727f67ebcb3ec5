# Prints the first column of the answer: DRIVER CONNINFO STATEMENT.
import asyncio
import ssl
import sys

driver, conninfo, statement = sys.argv[1:]
given = dict(pair.split("=", 1) for pair in conninfo.split())
host, port = given.get("hostaddr", given["host"]), int(given["port"])


def tls(disable, prefer):
    match given["sslmode"]:
        case "disable":
            return disable
        case "prefer":
            return prefer
    context = ssl.create_default_context(cafile=given["sslrootcert"])
    context.load_cert_chain(given["sslcert"], given["sslkey"])
    return context


def psycopg():
    import psycopg

    with psycopg.connect(conninfo, connect_timeout=20) as connection:
        return connection.execute(statement).fetchall()


def asyncpg():
    import asyncpg

    async def ask():
        connection = await asyncpg.connect(
            host=host, port=port, user=given["user"], password=given["password"], database=given["dbname"],
            ssl=tls(disable=False, prefer="prefer"), timeout=20)
        try:
            return await connection.fetch(statement)
        finally:
            await connection.close()

    return asyncio.run(ask())


def pg8000():
    import pg8000.native

    with pg8000.native.Connection(
            host=host, port=port, user=given["user"], password=given["password"], database=given["dbname"],
            ssl_context=tls(disable=False, prefer=None), timeout=20) as connection:
        return connection.run(statement)


try:
    for row in {"psycopg": psycopg, "asyncpg": asyncpg, "pg8000": pg8000}[driver]():
        print(row[0])
except Exception as error:
    sqlstate = getattr(error, "sqlstate", None)
    sys.exit(f"{type(error).__name__}{f' {sqlstate}' if sqlstate else ''}: {error}")
