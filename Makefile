# etcd_lock: cluster-wide advisory locks through etcd
#
#   make                  build
#   make install          install into the PostgreSQL that pg_config names
#   make stage            install into ./stage, for tests without a system install
#   make installcheck     test what is installed, on a running server that preloads
#                         it; with ETCD_LOCK_ENDPOINTS=http://... (an empty etcd) on
#                         a throwaway server that uses this etcd
#   make dist             the zip for PGXN, of what is committed
#   make deb              Debian's packages (packaging/deb)
#   make check            what needs neither root nor etcd: a minute
#   make indent           indent as PostgreSQL does (test/indent)
#   make indent-check     is everything indented?
#   make headerscheck     does each header compile alone?
#   make compile_commands.json    for clangd and other tools
#   test/run              all tests, with what they need (see there)
#
# PG_CONFIG chooses the PostgreSQL: make PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config
#
# To build in another directory: make -f SOURCE/Makefile VPATH=SOURCE

# PGXS sets srcdir only when it is included, which is after the lists of files.
here := $(if $(VPATH),$(VPATH),.)
files = $(patsubst $(here)/%,%,$(sort $(wildcard $(addprefix $(here)/,$(1)))))

MODULE_big = etcd_lock
OBJS = $(patsubst %.c,%.o,$(call files,src/*.c src/*/*.c))
$(if $(OBJS),,$(error no source files in $(here)/src))

EXTENSION = etcd_lock
DATA = $(call files,sql/etcd_lock--*.sql)
PGFILEDESC = "etcd_lock - cluster-wide advisory locks through etcd"

# Unused parameters are what callbacks are made of, and PostgreSQL's own
# headers and macros do not pass the other two.
WARNINGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers

# Assertions are on with a PostgreSQL that has them, or with ASSERTIONS=yes: packages of
# PostgreSQL export ExceptionalCondition(), which is all that Assert() needs.
PG_CPPFLAGS = -I$(srcdir)/src \
	$(if $(ASSERTIONS),-DUSE_ASSERT_CHECKING,$(if \
	$(findstring --enable-cassert,$(shell $(PG_CONFIG) --configure)),,-DNDEBUG))
PG_CFLAGS = $(WARNINGS)
SHLIB_LINK = -lcurl -lnghttp2 -lssl -lcrypto -lcares -lcjson

# PostgreSQL 15 would export everything, and later ones what libraries export.
ifeq ($(shell uname),Linux)
SHLIB_LINK += -Wl,--version-script=$(srcdir)/src/exports.map
endif

# Nothing in here is worth inlining into queries, and bitcode needs clang.
override with_llvm = no

REGRESS = $(patsubst sql/%.sql,%,$(filter-out $(DATA),$(call files,sql/*.sql)))
ISOLATION = $(patsubst test/specs/%.spec,%,$(call files,test/specs/*.spec))
ISOLATION_OPTS = --inputdir=$(srcdir)/test
PROVE_TESTS ?= test/t/*.pl
override PROVE_FLAGS += -I test/perl

# test/run sets STAGED: the servers under test preload the library from ./stage and
# use an etcd that test/run has started; it writes this file.  (PostgreSQL's Perl
# modules take a variable TEMP_CONFIG for theirs.)
SERVER_CONF ?= $(CURDIR)/build/regress.conf
ifdef STAGED
TAP_TESTS = 1
export ETCD_LOCK_STAGE ?= $(CURDIR)/stage
REGRESS_PREP = stage $(if $(strip $(REGRESS)$(ISOLATION)),temp-config)
else ifdef ETCD_LOCK_ENDPOINTS
REGRESS_PREP = endpoints-config
endif
ifneq (,$(STAGED)$(ETCD_LOCK_ENDPOINTS))
REGRESS_OPTS += --temp-instance=$(CURDIR)/tmp_check_regress --temp-config=$(SERVER_CONF)
ISOLATION_OPTS += --temp-instance=$(CURDIR)/tmp_check_iso --temp-config=$(SERVER_CONF)
endif

EXTRA_CLEAN = stage build tmp_check tmp_check_regress .objects-for-*

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)

# PGXS has a "check" that only says that there is none.  So "make check" reads
# no PGXS, and other goals beside it are made by another make.
ifneq ($(filter check,$(MAKECMDGOALS)),)
OTHER_GOALS = $(filter-out check,$(MAKECMDGOALS))
.PHONY: check $(OTHER_GOALS)
check: $(OTHER_GOALS)
	@PG_CONFIG='$(PG_CONFIG)' '$(here)/test/check'
$(OTHER_GOALS):
	@$(MAKE) --no-print-directory -f '$(firstword $(MAKEFILE_LIST))' $@
else

include $(PGXS)

# Debian's PostgreSQL is built without dependency tracking.
$(OBJS): $(wildcard $(here)/src/*/*.h)

# Without this, objects would stay as they are for another PostgreSQL, or when ASSERTIONS
# changes.  (FORCE, because PGXS makes all targets secondary: of those that are missing
# make thinks that they are not needed.)
objects_for = .objects-for-$(MAJORVERSION)$(if $(ASSERTIONS),-assertions)
$(OBJS): $(objects_for)
$(objects_for): FORCE
	@[ -e $@ ] || { rm -f .objects-for-* && touch $@; }

# A build in another directory begins without any folders.  (By absolute path, as
# else make would find those of the sources, by VPATH.)
object_dirs = $(addprefix $(CURDIR)/,$(sort $(dir $(OBJS))))
$(OBJS): | $(object_dirs)
$(object_dirs):
	@mkdir -p $@

# INSTALL_DOCS=no leaves the documents out: packages have places of their own.
INSTALL_DOCS ?= yes
ifeq ($(INSTALL_DOCS),yes)
docs := $(call files,*.md doc/*)
docs_dir = $(DESTDIR)$(docdir)/etcd_lock
install: install-docs
uninstall: uninstall-docs
endif

.PHONY: stage temp-config endpoints-config print-warnings print-preprocess install-docs uninstall-docs \
	dist deb indent indent-check headerscheck FORCE

install-docs:
	@$(MKDIR_P) '$(docs_dir)/doc'
	@for file in $(docs); do \
		$(INSTALL_DATA) "$(srcdir)/$$file" "$(docs_dir)/$$file" || exit 1; \
	done

uninstall-docs:
	rm -rf '$(docs_dir)'

# The version as PGXN wants it, of three parts.
dist_version = $(shell sed -n 's/^   "version": "\(.*\)",/\1/p' '$(here)/META.json')
dist:
	@mkdir -p build
	git -C '$(here)' archive --format=zip --prefix='etcd_lock-$(dist_version)/' \
		-o '$(CURDIR)/build/etcd_lock-$(dist_version).zip' HEAD
	@echo 'build/etcd_lock-$(dist_version).zip'

deb:
	@'$(here)/packaging/deb'

stage: all
	@rm -rf stage
	@$(MAKE) -s --no-print-directory -f '$(firstword $(MAKEFILE_LIST))' install \
		DESTDIR='$(CURDIR)/stage'

temp-config:
	@test -f '$(SERVER_CONF)' || \
		{ echo "no $(SERVER_CONF): run test/run, which starts an etcd and writes it" >&2; exit 1; }

endpoints-config:
	@mkdir -p '$(dir $(SERVER_CONF))'
	@{ cat '$(srcdir)/test/regress.conf' && \
		echo "shared_preload_libraries = 'etcd_lock'" && \
		echo "etcd_lock.endpoints = '$(ETCD_LOCK_ENDPOINTS)'"; } >'$(SERVER_CONF)'

# For test/compile-all, so that every compiler is as strict; for test/indent.
print-warnings:
	@echo $(WARNINGS)
print-preprocess:
	@echo $(CC) $(CPPFLAGS) -E

#
# For people
#

indent:
	@PG_CONFIG='$(PG_CONFIG)' '$(here)/test/indent'
indent-check:
	@PG_CONFIG='$(PG_CONFIG)' '$(here)/test/indent' --check

# Each header compiles alone, and twice.  The folders that know no PostgreSQL do
# without postgres.h, which all other files include first.
PURE_FOLDERS = etcd net
headerscheck:
	@status=0; \
	for header in $(patsubst src/%,%,$(call files,src/*/*.h)); do \
		case " $(PURE_FOLDERS) " in \
			*" $${header%%/*} "*) first= ;; \
			*) first='#include "postgres.h"' ;; \
		esac; \
		printf '%s\n#include "%s"\n#include "%s"\n' "$$first" "$$header" "$$header" | \
			$(COMPILE.c) -Werror -fsyntax-only -x c - || \
			{ echo "$$header does not compile alone" >&2; status=1; }; \
	done; \
	exit $$status

COMMA = ,
define COMPILE_COMMAND
{ "directory": "$(CURDIR)", "file": "$(here)/$(1:.o=.c)", "output": "$(1)",
  "command": "$(subst ",\",$(subst \,\\,$(COMPILE.c))) -o $(1) $(here)/$(1:.o=.c)" }
endef
compile_commands.json: FORCE
	$(file >$@,[)
	$(foreach object,$(OBJS),$(file >>$@,$(if $(filter-out $(firstword $(OBJS)),$(object)),$(COMMA)) \
		$(call COMPILE_COMMAND,$(object))))
	$(file >>$@,])
FORCE:

endif
