#-------------------------------------------------------------------------
# EtcdLockTest::Loss - ways in which a session loses its lock
#
# One that needs nobody's help but etcd's: by another server's administrator, by
# a key that is deleted, by a lease that is revoked, by an etcd that is silent
# until the deadline.
#-------------------------------------------------------------------------
package EtcdLockTest::Loss;

use strict;
use warnings;

use Exporter 'import';
use EtcdLockTest;

our @EXPORT = qw(
  break_lock
  heal
  is_committed
  lose
  wait_until_lost
  wait_until_waits_for
  wait_until_well
);

=pod

=over

=item break_lock($session, $etcd, $name)

Take the lock away from the session that holds it, in a superuser's session on any server.

=cut

sub break_lock
{
	my ($session, $etcd, $name) = @_;
	my ($holder) = $etcd->entries("$name/") or die "nobody holds $name";
	my $token = $holder->{create_revision} << 20;

	# The token rises as a server passes the lock on between its own sessions;
	# from another server only its key counts.
	$session->query("SELECT etcd_lock_break('$name', $token)") eq 't'
	  or die "could not break $name";
	return;
}

=item lose($how, $etcd, $name, %servers)

Let the session that holds the lock lose it: $how is "broken", "deleted", "revoked"
or "silent", and $servers{there} a superuser's session on another server.  Returns
as soon as it is done, not when the loser knows.  After "silent" etcd hangs until
heal($etcd).

=cut

sub lose
{
	my ($how, $etcd, $name, %servers) = @_;

	if ($how eq 'broken') { break_lock($servers{there}, $etcd, $name) }
	elsif ($how eq 'deleted') { $etcd->delete("$name/") }
	elsif ($how eq 'revoked') { $etcd->revoke($etcd->lease_of("$name/")) }
	elsif ($how eq 'silent') { $etcd->pause }
	else { die "no such loss: $how" }
	return;
}

sub heal { my ($etcd) = @_; $etcd->resume; return }

=item wait_until_lost($control, @names)

Wait until the server of this session knows that its locks were lost, or until they
are gone.

=cut

sub wait_until_lost
{
	my ($control, @names) = @_;
	my $list = join ',', map { "'$_'" } @names;
	return wait_until(
		"@names: lost",
		sub {
			$control->query("SELECT count(*) FROM etcd_locks
				WHERE NOT lost AND name IN ($list)") eq '0';
		},
		30);
}

=item wait_until_well($control, [$seconds])

Wait until the server of this session has a lease.

=cut

sub wait_until_well
{
	my ($control, $seconds) = @_;
	return wait_until('a lease',
		sub { $control->query("SELECT state FROM etcd_lock_status()") eq 'ready' },
		$seconds // 30);
}

=item wait_until_waits_for($control, $pid, $event)

Wait until a backend waits for this wait event.

=cut

sub wait_until_waits_for
{
	my ($control, $pid, $event) = @_;
	return wait_until(
		"backend $pid waits for $event",
		sub {
			$control->query("SELECT wait_event = '$event' FROM pg_stat_activity WHERE pid = $pid")
			  eq 't';
		});
}

=item is_committed($session, $value)

Whether table t of this session's database has a row with this value in column v.

=cut

sub is_committed
{
	my ($session, $value) = @_;
	return $session->query("SELECT count(*) FROM t WHERE v = '$value'");
}

=back

=cut

1;
