#-------------------------------------------------------------------------
# EtcdLockTest::Markdown - the examples in a text for users, to be run
#
# An example is a fenced block.  In one of SQL, a comment tells the session in
# which the next statements run, and another what comes back:
#
#   -- on A, second session
#   SELECT etcd_try_lock('/jobs/report');
#   --> f
#-------------------------------------------------------------------------
package EtcdLockTest::Markdown;

use strict;
use warnings;

=pod

=over

=item EtcdLockTest::Markdown::blocks($text)

Its fenced blocks: a list of { section, line, info (list of words behind the
fence), text }.

=cut

sub blocks
{
	my ($text) = @_;
	my (@blocks, $section, $block);
	my $number = 0;

	foreach my $line (split /\n/, $text)
	{
		$number++;
		if ($line =~ /^```(.*)/)
		{
			push @blocks, $block if $block;
			$block = $block
			  ? undef
			  : {
				section => $section,
				line => $number,
				info => [ split ' ', $1 ],
				text => ''
			  };
		}
		elsif ($block)
		{
			$block->{text} .= "$line\n";
		}
		elsif ($line =~ /^##+ (.*)/)
		{
			$section = $1;
		}
	}
	die "the block of line $block->{line} does not end" if $block;
	return @blocks;
}

=item EtcdLockTest::Markdown::steps($block)

What happens in a block of SQL: a list of { line, sessions (list), sql (may be
empty), expected (list of lines) }.

=cut

sub steps
{
	my ($block) = @_;
	my (@steps, @sessions);
	my $line = $block->{line};

	foreach (split /\n/, $block->{text})
	{
		$line++;
		my $step = $steps[-1];

		if (/^-- on (.+)/)
		{
			@sessions = split / and on /, $1;
			push @steps, { line => $line, sessions => [@sessions], sql => '', expected => [] };
		}
		elsif (/^-->\s*(.*)/)
		{
			die "line $line: no statement" unless $step;
			push @{ $step->{expected} }, $1;
		}
		elsif (/\S/)
		{
			die "line $line: in which session?" unless $step;
			push @steps, $step = { line => $line, sessions => [@sessions], sql => '', expected => [] }
			  if @{ $step->{expected} };
			$step->{sql} .= "$_\n";
		}
	}
	return @steps;
}

=back

=cut

1;
