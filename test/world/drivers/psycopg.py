"""The driver script by psycopg2, or psycopg (3): see README.md.

    psycopg.py psycopg2 | psycopg
"""
import importlib
import os
import re
import sys

# Not this file, which has the name of a driver.
sys.path = [path for path in sys.path
            if os.path.abspath(path) != os.path.dirname(os.path.abspath(__file__))]
driver = importlib.import_module(sys.argv[1])
connections = {}


def show(value):
    if value is None:
        return 'null'
    if value is True:
        return 't'
    if value is False:
        return 'f'
    return str(value)


def run(name, sql, values=None):
    with connections[name].cursor() as cursor:
        if values is None:
            cursor.execute(sql)
        else:
            cursor.execute(re.sub(r'\$\d', '%s', sql.replace('%', '%%')), values)
        if cursor.description is None:
            return ''
        return ';'.join('|'.join(show(value) for value in row) for row in cursor.fetchall())


def value(field):
    return int(field[2:]) if field[0] == 'i' else field[2:]


def command(what, fields):
    if what == 'open':
        connection = driver.connect(host='127.0.0.1', port=os.environ[fields[1]],
                                    dbname='postgres', user='postgres')
        connection.autocommit = True
        connections[fields[0]] = connection
    elif what == 'close':
        connections[fields[0]].close()
    elif what == 'q':
        return run(fields[0], fields[1])
    elif what == 'p':
        return run(fields[0], fields[1], [value(field) for field in fields[2:]])
    elif what == 'release':
        refused = 0
        for _ in range(int(fields[0])):
            run(fields[1], fields[3])
            refused += run(fields[2], fields[4]) == 'f'
        return str(refused)
    elif what == 'begin':
        # A transaction begins with the next statement.
        connections[fields[0]].autocommit = False
    else:
        connection = connections[fields[0]]
        try:
            connection.commit() if what == 'commit' else connection.rollback()
        finally:
            connection.autocommit = True
    return ''


for line in sys.stdin:
    what, *fields = line.rstrip('\n').split('\t')
    try:
        answer = 'ok\t' + command(what, fields)
    except driver.Error as error:
        state = getattr(error, 'sqlstate', None) or getattr(error, 'pgcode', None)
        answer = 'error\t' + (state or 'closed')
    print(answer, flush=True)
os._exit(0)
