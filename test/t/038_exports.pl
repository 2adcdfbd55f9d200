# The library exports what PostgreSQL looks up by name, and nothing else.

use strict;
use warnings;

use EtcdLockTest;
use Test::More;

my ($libdir) = map { chomp; $_ } `pg_config --pkglibdir`;
my $library = ($ENV{ETCD_LOCK_STAGE} // '') . "$libdir/etcd_lock.so";
my @symbols = map { /(\S+)$/ ? $1 : () } `nm -D --defined-only '$library'`;
plan skip_all => "nm cannot read $library" unless @symbols;

is(join(' ', grep { !/^(?:Pg_magic_func|_PG_init|etcd_lock_worker_main|(?:pg_finfo_)?etcd_lock_sql_\w+)$/ }
		@symbols), '', 'nothing else');
cmp_ok(scalar(@symbols), '>', 50, 'and all of that');
done_testing();
