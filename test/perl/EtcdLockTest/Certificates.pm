#-------------------------------------------------------------------------
# EtcdLockTest::Certificates - a certificate authority of the test's own
#
# Made with openssl, in a directory that goes away with the test.
#-------------------------------------------------------------------------
package EtcdLockTest::Certificates;

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;

=pod

=over

=item EtcdLockTest::Certificates->new([$name])

A new authority.

=cut

sub new
{
	my ($class, $name) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir('certificates');
	my $self = bless { dir => $dir, number => 0 }, $class;

	$self->openssl(
		'req', '-x509', new_key("$dir/ca.key"), '-out', "$dir/ca.crt",
		'-days', 10, '-subj', '/CN=' . ($name // 'test authority'));
	return $self;
}

=item $ca->file

The authority's own certificate.

=cut

sub file { my ($self) = @_; return "$self->{dir}/ca.crt" }

=item $ca->issue(%options)

A certificate and its key, for servers and clients: a hash { cert, key } of file
names.  Options: names (subjectAltName, default IP:127.0.0.1), subject (default
empty, so without a Common Name), days (negative: expired).

=cut

sub issue
{
	my ($self, %options) = @_;
	my $base = "$self->{dir}/" . ++$self->{number};

	PostgreSQL::Test::Utils::append_to_file("$base.ext",
			'subjectAltName='
		  . ($options{names} // 'IP:127.0.0.1')
		  . "\nextendedKeyUsage=serverAuth,clientAuth\n");
	$self->openssl('req', new_key("$base.key"), '-out', "$base.csr",
		'-subj', $options{subject} // '/');
	my $days = $options{days} // 10;
	my @validity = ('-days', $days);

	# Newer releases make none that ends before it begins.
	@validity = ('-not_before', '20200101000000Z', '-not_after', '20200102000000Z')
	  if $days < 0 && `openssl x509 -help 2>&1` =~ /-not_after/;
	$self->openssl(
		'x509', '-req', '-in', "$base.csr", '-out', "$base.crt",
		'-CA', $self->file, '-CAkey', "$self->{dir}/ca.key",
		'-CAcreateserial', @validity, '-extfile', "$base.ext");
	return { cert => "$base.crt", key => "$base.key" };
}

=back

=cut

sub new_key
{
	my ($file) = @_;
	return ('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1',
		'-nodes', '-keyout', $file);
}

sub openssl
{
	my ($self, @arguments) = @_;
	my $output = '';

	# Its configuration file may not be installed, and is not needed.
	local $ENV{OPENSSL_CONF} = $self->{conf} //= do
	{
		my $conf = "$self->{dir}/openssl.cnf";
		PostgreSQL::Test::Utils::append_to_file($conf,
			"[req]\ndistinguished_name=dn\nx509_extensions=ca\n[dn]\n"
			  . "[ca]\nbasicConstraints=critical,CA:true\nsubjectKeyIdentifier=hash\n");
		$conf;
	};
	IPC::Run::run([ 'openssl', @arguments ], '<', \'', '>&', \$output)
	  or die "openssl @arguments:\n$output";
	return;
}

1;
