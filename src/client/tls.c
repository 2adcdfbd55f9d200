/*-------------------------------------------------------------------------
 *
 * tls.c
 *	  The worker's certificates and key, from the files that settings name.
 *
 * The files are read at the start and whenever the configuration is reloaded,
 * and checked before they are used: a certificate without its key, or half of
 * a file, must not replace what works.  So an error is reported at once, not
 * when the next connection fails.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "client/config_file.h"
#include "client/etcd_client.h"
#include "client/tls.h"
#include "shared/settings.h"
#include "utils/memutils.h"

struct TlsFiles
{
	ConnectionTls *current;
	uint64		generation;
};

#define MyTls (MyClient->tls)

void
tls_create(void)
{
	MyTls = MemoryContextAllocZero(TopMemoryContext, sizeof(struct TlsFiles));
}

/* There is no one to ask for a passphrase. */
static int
no_passphrase(char *buf, int size, int rwflag, void *userdata)
{
	return 0;
}

static char *
openssl_error(const char *what, const char *path)
{
	unsigned long code = ERR_get_error();
	const char *reason = ERR_reason_error_string(code);

	ERR_clear_error();
	return psprintf("could not load %s \"%s\": %s", what, path,
					reason != NULL ? reason : "unknown error");
}

static X509 *
read_certificate(const ConfigFile *file)
{
	BIO		   *bio = BIO_new_mem_buf(file->content, (int) file->len);
	X509	   *cert = NULL;

	ERR_clear_error();
	if (bio != NULL)
		cert = PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL);
	BIO_free(bio);
	return cert;
}

static EVP_PKEY *
read_key(const ConfigFile *file)
{
	BIO		   *bio = BIO_new_mem_buf(file->content, (int) file->len);
	EVP_PKEY   *key = NULL;

	ERR_clear_error();
	if (bio != NULL)
		key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
	BIO_free(bio);
	return key;
}

/* This is only reported: the server decides, by its own clock. */
static void
warn_if_expired(const X509 *cert, const char *path)
{
	if (X509_cmp_current_time(X509_get0_notAfter(cert)) < 0)
		ereport(LOG,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("etcd_lock: certificate \"%s\" has expired", path)));
}

static char *
check_pair(const ConfigFile *cert_file, const ConfigFile *key_file)
{
	X509	   *cert = read_certificate(cert_file);
	EVP_PKEY   *key;
	char	   *error = NULL;

	if (cert == NULL)
		return openssl_error("certificate file", etcd_lock_cert);
	key = read_key(key_file);
	if (key == NULL)
		error = openssl_error("private key file", etcd_lock_key);
	else if (X509_check_private_key(cert, key) != 1)
	{
		ERR_clear_error();
		error = psprintf("private key file \"%s\" does not belong to certificate file \"%s\"",
						 etcd_lock_key, etcd_lock_cert);
	}
	else
		warn_if_expired(cert, etcd_lock_cert);
	EVP_PKEY_free(key);
	X509_free(cert);
	return error;
}

static char *
check_cacert(const ConfigFile *file)
{
	X509	   *cert = read_certificate(file);

	if (cert == NULL)
		return openssl_error("root certificate file", etcd_lock_cacert);
	warn_if_expired(cert, etcd_lock_cacert);
	X509_free(cert);
	return NULL;
}

static char *
read_files(ConfigFile *cacert, ConfigFile *cert, ConfigFile *key)
{
	char	   *error = NULL;

	if (etcd_lock_cacert[0] != '\0')
	{
		error = config_file_read(etcd_lock_cacert, false, cacert);
		if (error == NULL)
			error = check_cacert(cacert);
	}
	if (error != NULL)
		return error;

	if ((etcd_lock_cert[0] == '\0') != (etcd_lock_key[0] == '\0'))
		return pstrdup("\"etcd_lock.cert\" and \"etcd_lock.key\" must be set together");
	if (etcd_lock_cert[0] == '\0')
		return NULL;
	error = config_file_read(etcd_lock_cert, false, cert);
	if (error == NULL)
		error = config_file_read(etcd_lock_key, true, key);
	if (error == NULL)
		error = check_pair(cert, key);
	return error;
}

/* Existing connections continue with what they have. */
static bool
use(const NetTls *tls)
{
	ConnectionTls *shared;

	if (MyTls->current != NULL && connection_tls_is(MyTls->current, tls))
		return true;
	shared = connection_tls_create(tls);
	if (shared == NULL)
		return false;
	connection_tls_release(MyTls->current);
	MyTls->current = shared;
	MyTls->generation++;
	return true;
}

char *
tls_load(void)
{
	ConfigFile	cacert = {0};
	ConfigFile	cert = {0};
	ConfigFile	key = {0};
	char	   *error = read_files(&cacert, &cert, &key);

	if (error == NULL)
	{
		NetTls		tls = {
			cacert.content, cacert.len, cert.content, cert.len, key.content, key.len
		};

		if (!use(&tls))
			error = pstrdup("out of memory");
	}
	config_file_free(&cacert);
	config_file_free(&cert);
	config_file_free(&key);
	return error;
}

bool
tls_loaded(void)
{
	return MyTls->current != NULL;
}

ConnectionTls *
tls_current(void)
{
	return MyTls->current;
}

uint64
tls_generation(void)
{
	return MyTls->generation;
}
