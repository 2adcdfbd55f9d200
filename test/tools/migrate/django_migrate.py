"""Django's "migrate" up to a version, under a lock: django_migrate.py VERSION

Django has no lock of its own; this is the usual one, around the command.
"""
import os
import sys

import django
from django.conf import settings
from django.core.management import call_command

sys.path.insert(0, os.getcwd() + '/django')
settings.configure(
    INSTALLED_APPS=['app'],
    DATABASES={'default': {
        'ENGINE': 'django.db.backends.postgresql', 'NAME': os.environ['PGDATABASE'],
        'USER': os.environ['PGUSER'], 'HOST': os.environ['PGHOST'],
        'PORT': os.environ['PGPORT']}})
django.setup()

from django.db import connection  # noqa: E402, after the settings

with connection.cursor() as cursor:
    cursor.execute('SELECT pg_advisory_lock(4712)')
    try:
        call_command('migrate', 'app', '000%d' % (int(sys.argv[1]) + 1), verbosity=0)
    finally:
        cursor.execute('SELECT pg_advisory_unlock(4712)')
