# shellcheck shell=bash
#
# What test/demo, test/run and test/compile-all share: packages, the build, and
# throwaway servers.
#
# Nothing of the machine is disturbed.  The extension goes into ./stage, not
# into the system.  etcd's package would start a system service, so its files
# are unpacked into ./build and not installed.  PostgreSQL's package is
# installed without the cluster that it creates by default.  Servers run in
# directories of their own, on free ports, and are ended by their process id.

set -euo pipefail
umask 022
export LC_ALL=C
unset CDPATH "${!PG@}" "${!ETCDCTL_@}"

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say()
{
	printf '==> %s\n' "$*"
}

warn()
{
	printf '%s\n' "$*" >&2
}

die()
{
	warn "${0##*/}: $*"
	exit 1
}

# run_logged FILE COMMAND...: the command's output goes to a file, and its end
# to the screen if it fails.
run_logged()
{
	local log=$1
	shift
	"$@" >"$log" 2>&1 </dev/null && return 0
	warn "failed: $*"
	tail -n 40 "$log" >&2
	return 1
}

#
# Who runs the servers: PostgreSQL refuses root.
#
# What belongs to the server user is in the hands of every superuser of a cluster
# on this machine, who can put a symbolic link where root is about to write.  So
# root opens no file below such a directory: its logs and process ids lie beside
# it, and what must be in there is read and written as the server user.
#

server_user=$(id -un)
as_server_user=()

if [ "$(id -u)" = 0 ]; then
	server_user=postgres
	as_server_user=(setpriv --reuid=postgres --regid=postgres --init-groups
		env HOME=/tmp USER=postgres LOGNAME=postgres)
fi

as_server()
{
	"${as_server_user[@]}" "$@"
}

# server_dir DIR...: make directories that belong to the server user, in one of
# ours.
server_dir()
{
	mkdir "$@"
	[ "$(id -u)" != 0 ] || chown "$server_user" "$@"
}

# append_as_server FILE: standard input to the end of it.
append_as_server()
{
	# shellcheck disable=SC2016
	as_server sh -c 'exec cat >>"$1"' sh "$1"
}

# roots_among_servers DIR: print what root has made in directories of the server
# user.
roots_among_servers()
{
	find "$1" -type d -user "$server_user" -exec \
		find {} -mindepth 1 -maxdepth 1 -user root \;
}

#
# Packages
#

# The major version of the distribution's own PostgreSQL.
release_postgres()
{
	local version

	command -v apt-cache >/dev/null || return 1
	version=$(apt-cache show --no-all-versions postgresql 2>/dev/null | sed -n 's/^Version: //p')
	if [ -z "$version" ] && [ "$(id -u)" = 0 ]; then
		apt-get update >/dev/null 2>&1 </dev/null || return 1
		version=$(apt-cache show --no-all-versions postgresql | sed -n 's/^Version: //p')
	fi
	echo "${version%%[!0-9]*}"
}

# The major version to build for: the one that a running Debian release has,
# else the newest one that is installed, or the distribution's own.
choose_postgres()
{
	local release

	if [ -n "${PG_CONFIG:-}" ]; then
		pg_config=$(command -v "$PG_CONFIG") || die "PG_CONFIG: no program $PG_CONFIG"
		pg_version=$("$pg_config" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
	else
		release=$(. /etc/os-release 2>/dev/null && echo "${ID:-}${VERSION_ID:-}") || release=
		case $release in
			debian12) pg_version=15 ;;
			debian13) pg_version=17 ;;
			*) pg_version=$(ls /usr/lib/postgresql 2>/dev/null | sort -n | tail -n 1) || true
				[ -n "$pg_version" ] || pg_version=$(release_postgres) || true ;;
		esac
		pg_config=/usr/lib/postgresql/$pg_version/bin/pg_config
	fi
	[ -n "$pg_version" ] || die "no PostgreSQL found: set PG_CONFIG"
}

missing=()

# want PACKAGE PATTERN...: the package is missing unless one of the files is
# there, be it from the package or not.
want()
{
	local package=$1 file
	shift
	for file in $(compgen -G "$1") ${2:+$(compgen -G "$2")}; do
		[ -e "$file" ] && return 0
	done
	missing+=("$package")
}

# need_packages [PACKAGE...]: install what is missing, and these packages.
need_packages()
{
	local dir="/usr/lib/postgresql"

	choose_postgres
	missing=("$@")
	command -v make >/dev/null || missing+=(make)
	command -v gcc >/dev/null || missing+=(gcc)
	command -v prove >/dev/null || missing+=(perl)
	want libc6-dev '/usr/include/stdio.h'
	want libcurl4-openssl-dev '/usr/include/curl/curl.h' '/usr/include/*/curl/curl.h'
	want libnghttp2-dev '/usr/include/nghttp2/nghttp2.h'
	want libssl-dev '/usr/include/openssl/ssl.h'
	want libc-ares-dev '/usr/include/ares.h'
	want libcjson-dev '/usr/include/cjson/cJSON.h' '/usr/local/include/cjson/cJSON.h'
	want python3-h2 '/usr/lib/python3/dist-packages/h2/__init__.py'
	want libipc-run-perl '/usr/share/perl5/IPC/Run.pm' '/usr/local/share/perl/*/IPC/Run.pm'
	if [ -z "${PG_CONFIG:-}" ]; then
		want "postgresql-$pg_version" "$dir/$pg_version/bin/postgres"
		want "postgresql-server-dev-$pg_version" \
			"/usr/include/postgresql/$pg_version/server/postgres.h"
	fi

	if [ ${#missing[@]} -gt 0 ]; then
		if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
			die "missing: ${missing[*]} (as root on Debian, this command installs them)"
		fi
		say "Installing from Debian's packages: ${missing[*]}"
		install_packages "${missing[@]}"
	fi
	mkdir -p "$top/build"
	pg_bindir=$("$pg_config" --bindir)
}

apt_install()
{
	DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
		apt-get install --yes --no-install-recommends \
		-o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 "$@"
}

# one_at_a_time: of suites that run side by side, for the rest of this subshell.
one_at_a_time()
{
	mkdir -p "$top/build"
	exec 9>"$top/build/packages.lock"
	flock 9
}

# update_lists: the lists of packages are new enough for an hour.
update_lists()
{
	if [ -z "$(find "$top/build/lists-are-new" -mmin -60 2>/dev/null)" ] ||
		! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; then
		run_logged "$top/build/lists.log" apt-get update || return 1
		touch "$top/build/lists-are-new"
	fi
}

# has_package PACKAGE: does this release of Debian have it?
has_package()
{
	(one_at_a_time && update_lists) && apt-cache show --no-all-versions "$1" >/dev/null 2>&1
}

# The server's package starts the clusters that are meant to run, and creates
# one when it is new, unless this is turned off in createcluster.d.
install_packages()
(
	one_at_a_time
	conf=/etc/postgresql-common
	log=$(mktemp)
	made=()
	trap 'rm -f "$log" "$conf/createcluster.d/etcd_lock-tests.conf"
		[ ${#made[@]} = 0 ] || rmdir --ignore-fail-on-non-empty "${made[@]}"' EXIT
	trap 'exit 1' INT TERM HUP

	if [[ " $* " = *" postgresql-$pg_version "* ]]; then
		if command -v pg_lsclusters >/dev/null &&
			pg_lsclusters -h | awk '$4 ~ /^down/ { found = 1 } END { exit !found }'; then
			warn "A PostgreSQL cluster is stopped here, and could be started by installing"
			die "postgresql-$pg_version: install that package by hand first"
		fi
		for dir in "$conf" "$conf/createcluster.d"; do
			[ -d "$dir" ] && continue
			mkdir "$dir"
			made=("$dir" "${made[@]}")
		done
		echo "create_main_cluster = off" >"$conf/createcluster.d/etcd_lock-tests.conf"
	fi

	update_lists || exit 1
	run_logged "$log" apt_install "$@" 9>&-
)

# The archive that this machine's own packages come from.
debian_archive()
{
	apt-get indextargets --format '$(REPO_URI) $(COMPONENT) $(RELEASE)' \
		'Created-By: Packages' 'Origin: Debian' 2>/dev/null |
		awk '$2 == "main" && $3 !~ /-/ && !found++ { print $1 }'
}

# unpack RELEASE DIR PACKAGE...: unpack packages of a Debian release ("own" for
# that of this machine) into a directory, without installing them.  Other
# releases are read with lists and settings of their own.
unpack()
(
	release=$1
	dir=$2
	shift 2
	apt=()

	command -v apt-get >/dev/null || exit 1
	one_at_a_time
	# Another suite may just have done it.
	[ ! -d "$dir" ] || exit 0
	[ "$(id -u)" != 0 ] || apt+=(-o APT::Sandbox::User=root)
	rm -rf "$dir.part"
	mkdir -p "$dir.part/debs"
	trap 'rm -rf "$dir.part"' EXIT
	trap 'exit 1' INT TERM HUP

	if [ "$release" != own ]; then
		keyring=/usr/share/keyrings/debian-archive-keyring.gpg
		lists=$top/build/apt/$release
		uri=$(debian_archive)
		[ -n "$uri" ] || exit 1
		mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial" "$lists/parts"
		[ -e "$keyring" ] && signed="[signed-by=$keyring] " || signed=
		echo "deb ${signed}$uri $release main" >"$lists/sources.list"
		apt+=(-o "Dir::Etc::SourceList=$lists/sources.list"
			-o "Dir::Etc::SourceParts=$lists/parts"
			-o "Dir::State::Lists=$lists/lists" -o "Dir::Cache=$lists/cache"
			-o Acquire::Languages=none)
		run_logged "$dir.part/log" apt-get "${apt[@]}" \
			-o APT::Update::Error-Mode=any update || exit 1
	fi

	cd "$dir.part/debs"
	# The machine's own lists may be missing or old.
	if ! apt-get "${apt[@]}" download "$@" >"$dir.part/log" 2>&1 </dev/null; then
		[ "$release" != own ] || [ "$(id -u)" != 0 ] ||
			run_logged "$dir.part/log" apt-get update || exit 1
		run_logged "$dir.part/log" apt-get "${apt[@]}" download "$@" || exit 1
	fi
	for deb in *.deb; do
		dpkg -x "$deb" ..
	done
	rm -rf "$dir"
	mv "$dir.part" "$dir"
)

# fetch_source PACKAGE DIR FILE...: files of the source that this machine's release of
# Debian makes a package from, below DIR.
fetch_source()
(
	package=$1
	dir=$2
	shift 2
	keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	lists=$top/build/apt/source
	uri=$(debian_archive) && [ -n "$uri" ] || exit 1
	release=$(. /etc/os-release && echo "$VERSION_CODENAME")

	apt=(-o "Dir::Etc::SourceList=$lists/sources.list" -o "Dir::Etc::SourceParts=$lists/parts"
		-o "Dir::State::Lists=$lists/lists" -o "Dir::Cache=$lists/cache"
		-o Acquire::Languages=none)
	[ "$(id -u)" != 0 ] || apt+=(-o APT::Sandbox::User=root)
	mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial" "$lists/parts"
	[ -e "$keyring" ] && signed="[signed-by=$keyring] " || signed=
	echo "deb-src ${signed}$uri $release main" >"$lists/sources.list"

	rm -rf "$dir.part"
	mkdir -p "$dir.part/files"
	trap 'rm -rf "$dir.part"' EXIT
	trap 'exit 1' INT TERM HUP
	cd "$dir.part"
	run_logged log apt-get "${apt[@]}" -o APT::Update::Error-Mode=any update || exit 1
	run_logged log apt-get "${apt[@]}" source --download-only --tar-only "$package" || exit 1
	tar -C files --strip-components=1 --wildcards -xf ./*.orig.tar.* "${@/#/*/}" || exit 1
	rm -rf "$dir"
	mv files "$dir"
)

#
# The extension
#

# One at a time: test/demo and test/run may begin together.
build_extension()
{
	say "Building the extension for PostgreSQL $pg_version"
	(
		mkdir -p "$top/build"
		exec 9>"$top/build/make.lock"
		flock 9
		run_logged "$top/build/make.log" make -s -j"$(nproc)" -C "$top" PG_CONFIG="$pg_config" all
	)
}

# version_1_0_archive: version 1.0 as it was released, in build/version-1.0.tar.  Fails
# where git or its history is missing.
version_1_0_archive()
{
	local archive=$top/build/version-1.0.tar

	[ ! -f "$archive" ] || return 0
	mkdir -p "$top/build"
	git -C "$top" archive -o "$archive.part" 8562907 2>/dev/null || return 1
	mv "$archive.part" "$archive"
}

# stage_conf DIR: settings with which a server finds the extension in DIR,
# where "make install DESTDIR=DIR" has put it.  The setting for the control
# file is Debian's own before PostgreSQL 18.
stage_conf()
{
	echo "dynamic_library_path = '$1$("$pg_config" --pkglibdir):\$libdir'"
	if [ "$pg_version" -ge 18 ]; then
		echo "extension_control_path = '$1$("$pg_config" --sharedir):\$system'"
	else
		echo "extension_destdir = '$1'"
	fi
	echo "shared_preload_libraries = 'etcd_lock'"
}

#
# etcd
#

# etcd_from RELEASE: sets etcd and etcdctl, to what is installed or unpacked.
etcd_from()
{
	local dir=$top/build/etcd-$1

	if [ "$1" = own ] && command -v etcd >/dev/null && command -v etcdctl >/dev/null; then
		etcd=$(command -v etcd)
		etcdctl=$(command -v etcdctl)
	else
		if [ ! -d "$dir" ]; then
			say "Unpacking etcd from Debian's packages into build/${dir##*/}"
			unpack "$1" "$dir" etcd-server etcd-client || return 1
		fi
		etcd=$dir/usr/bin/etcd
		etcdctl=$dir/usr/bin/etcdctl
	fi
	etcd_version=$("$etcd" --version | awk '/^etcd Version/ { print $3 }')
}

free_ports()
{
	perl -MIO::Socket::INET -e '
		my @held = map {
			IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die $@;
		} 1 .. shift;
		print join(" ", map { $_->sockport } @held), "\n";' "$1"
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for()
{
	local until=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $until ] || return 1
		sleep 0.02
	done
}

etcd_answers()
{
	# An etcd that has ended is no use waiting for.
	! gone "$etcd_pid" || return 0
	ETCDCTL_API=3 "$etcdctl" --endpoints="$etcd_url" --command-timeout=1s \
		endpoint health >/dev/null 2>&1
}

# start_etcd DIR: sets etcd_pid (also in the file DIR.pid) and etcd_url; DIR must
# belong to the server user, and $etcd be a program that this user can reach.  The
# log is DIR.log.
start_etcd()
{
	local dir=$1 attempt client peer

	# A free port may be taken again before etcd listens on it.
	for attempt in 1 2 3; do
		read -r client peer <<<"$(free_ports 2)"
		etcd_url=http://127.0.0.1:$client
		setsid "${as_server_user[@]}" env -u ETCD_LOCK_STAGE "$etcd" \
			--name default --data-dir "$dir/data" --logger zap \
			--listen-client-urls "$etcd_url" --advertise-client-urls "$etcd_url" \
			--listen-peer-urls "http://127.0.0.1:$peer" \
			--initial-advertise-peer-urls "http://127.0.0.1:$peer" \
			--initial-cluster "default=http://127.0.0.1:$peer" \
			</dev/null >"$dir.log" 2>&1 &
		etcd_pid=$!
		disown "$etcd_pid"
		echo "$etcd_pid" >"$dir.pid"
		wait_for 30 etcd_answers || break
		! gone "$etcd_pid" && return 0
		as_server rm -rf "$dir/data"
	done
	tail -n 20 "$dir.log" >&2
	die "etcd does not start"
}

# stop_etcd DIR
stop_etcd()
{
	# Whoever interrupts start_etcd may do so before the file is written.
	local pid=${!:-}

	[ ! -f "$1.pid" ] || pid=$(<"$1.pid")
	[ -z "$pid" ] || end_process "$pid" "$1/data"
	rm -f "$1.pid"
}

# gone PID: no such process, or one that has ended and is not yet waited for.
gone()
{
	! grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status"
}

# is_known PID WORD: a child of this shell, or its command line has the word, so
# that a reused process id hurts nobody.  (A bare "return" would be wrong here: in
# a trap it returns the status from before the trap.)
is_known()
{
	grep -qsx "PPid:[[:space:]]*$$" "/proc/$1/status" && return 0
	# Not grep -q, which would leave tr to die of a broken pipe.
	tr '\0' '\n' 2>/dev/null <"/proc/$1/cmdline" | grep -xF -- "$2" >/dev/null
} 2>/dev/null

end_process()
{
	is_known "$1" "$2" || return 0
	kill "$1" 2>/dev/null || return 0
	wait_for 20 gone "$1" || kill -KILL "$1" 2>/dev/null || true
}

# npm_modules DIR TARGET: make TARGET/node_modules, unless it is there, in a directory
# that belongs to the server user, of the very packages that DIR/package-lock.json
# names.  None of their code runs meanwhile, and nothing runs as root.  They are kept
# in build.
npm_modules()
(
	archive=$top/build/npm-$(cat "$1"/*.json | cksum | cut -d ' ' -f 1).tar
	trap 'rm -f "$archive.part"' EXIT
	trap 'exit 1' INT TERM HUP

	[ -d "$2" ] || server_dir "$2"
	[ ! -d "$2/node_modules" ] || exit 0
	if [ ! -f "$archive" ]; then
		as_server rm -f "$2/package.json" "$2/package-lock.json"
		for file in package.json package-lock.json; do
			append_as_server "$2/$file" <"$1/$file"
		done
		run_logged "$top/build/npm.log" as_server env HOME="$2" npm --prefix "$2" \
			--cache "$2/.npm" ci --ignore-scripts --no-audit --no-fund \
			--fetch-retries=1 --fetch-timeout=20000 || exit 1
		as_server tar -C "$2" -cf - node_modules >"$archive.part" || exit 1
		mv "$archive.part" "$archive"
	else
		as_server tar -C "$2" -xf - <"$archive"
	fi
)

# copy_etcd DIR: etcd's programs, to where the server user can reach them.
copy_etcd()
{
	if [ ! -d "$1" ]; then
		mkdir "$1"
		cp "$etcd" "$etcdctl" "$1/"
		# not in the packages of 3.4
		[ ! -x "${etcdctl%ctl}utl" ] || cp "${etcdctl%ctl}utl" "$1/"
	fi
	etcd=$1/etcd
	etcdctl=$1/etcdctl
}
