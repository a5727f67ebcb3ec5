# psycopg in a program of several threads: one is at a statement that takes a minute, and the other cancels it. CONNINFO.
import sys
import threading

import psycopg

with psycopg.connect(sys.argv[1], connect_timeout=20) as connection:
    over = threading.Event()

    def cancel():
        # The first one may come before the statement does.
        while not over.wait(0.02):
            connection.cancel_safe(timeout=20)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    try:
        connection.execute("select pg_sleep(60)")
    except psycopg.Error as error:
        print(f"{error.sqlstate}: {error}")
    finally:
        over.set()
        canceller.join()
