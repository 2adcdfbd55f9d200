# Alembic has no lock of its own; this is the usual one, in env.py.
from alembic import context
from sqlalchemy import create_engine, text

with create_engine('postgresql+psycopg2://').connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        connection.execute(text('SELECT pg_advisory_xact_lock(4711)'))
        context.run_migrations()
