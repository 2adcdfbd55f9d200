# etcd_lock: cluster-wide advisory locks through etcd
#
#   make                  build
#   make install          install into the PostgreSQL that pg_config names
#   make stage            install into ./stage, for tests without a system install
#   test/run              all tests, with what they need (see there)
#
# PG_CONFIG chooses the PostgreSQL: make PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config

MODULE_big = etcd_lock
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))

EXTENSION = etcd_lock
DATA = $(wildcard sql/etcd_lock--*.sql)
PGFILEDESC = "etcd_lock - cluster-wide advisory locks through etcd"

# Unused parameters are what callbacks are made of, and PostgreSQL's own
# headers and macros do not pass the other two.
WARNINGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers

PG_CPPFLAGS = -I$(srcdir)/src
PG_CFLAGS = $(WARNINGS)
SHLIB_LINK = -lcurl -lcjson $(filter -lcrypto, $(LIBS))

# Nothing in here is worth inlining into queries, and bitcode needs clang.
override with_llvm = no

REGRESS = $(patsubst sql/%.sql,%,$(sort $(filter-out $(DATA),$(wildcard sql/*.sql))))
ISOLATION = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
TAP_TESTS = 1
PROVE_TESTS ?= test/t/*.pl
override PROVE_FLAGS += -I test/perl
export ETCD_LOCK_STAGE ?= $(CURDIR)/stage

# The servers under test preload the library from ./stage and need an etcd:
# test/run starts one and writes this file.
TEMP_CONFIG ?= $(CURDIR)/build/regress.conf
REGRESS_PREP = stage $(if $(strip $(REGRESS)$(ISOLATION)),temp-config)
REGRESS_OPTS = --temp-instance=$(CURDIR)/tmp_check_regress \
	--temp-config=$(TEMP_CONFIG)
ISOLATION_OPTS = --temp-instance=$(CURDIR)/tmp_check_iso \
	--temp-config=$(TEMP_CONFIG) --inputdir=$(srcdir)/test

EXTRA_CLEAN = stage build tmp_check tmp_check_regress

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# Debian's PostgreSQL is built without dependency tracking.
$(OBJS): $(wildcard src/*.h)

.PHONY: stage temp-config print-warnings

stage: all
	@rm -rf stage
	@$(MAKE) -s --no-print-directory install DESTDIR='$(CURDIR)/stage'

temp-config:
	@test -f '$(TEMP_CONFIG)' || \
		{ echo "no $(TEMP_CONFIG): run test/run, which starts an etcd and writes it" >&2; exit 1; }

# For test/compile-all, so that every compiler is as strict.
print-warnings:
	@echo $(WARNINGS)
